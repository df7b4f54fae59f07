"""The evidence by importance sampling: exact at the posterior, from below elsewhere, in both libraries."""

from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import importance
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import LIBRARIES


@pytest.fixture(scope="module")
def fitted() -> Any:
    zoo = lz.get("probabilistic_pca", num_latents=1)
    data, _ = zoo.simulate(seed=0, num_rows=10)
    return zoo, data, lz.fit(zoo, data, progress=False)


@pytest.mark.parametrize("library", LIBRARIES)
def test_weights_at_the_posterior_are_the_evidence(library: Any, fitted: Any) -> None:
    zoo, data, fit = fitted
    found = importance.evidence(zoo, data, fit.params, num_particles=30, library=library)
    assert found.log_evidence == pytest.approx(fit.elbo, rel=1e-10)
    assert found.error < 1e-10
    assert found.ess == pytest.approx(30.0, rel=1e-10)
    assert (found.khat == -np.inf).all()
    assert found.rows == pytest.approx(zoo.closed_form.log_predictive(fit.params, data, fit.prior, zoo.spec), rel=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_proposals(library: Any, fitted: Any) -> None:
    """A wide guide serves better than the prior; each is right within its error where its k-hat is good."""
    zoo, data, fit = fitted
    wide, prior = (
        importance.evidence(zoo, data, fit.params, num_particles=2000, proposal=proposal, library=library, seed=3)
        for proposal in (1.5, "prior")
    )
    for found in (wide, prior):
        assert abs(found.log_evidence - fit.elbo) < 5 * found.error
    assert (wide.khat < importance.GOOD_KHAT).all()
    assert wide.error < 0.3 * prior.error
    assert (wide.ess > prior.ess).all()


def test_parts_of_rows_are_rows(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with weights of their own are weighed a part at a time."""
    zoo, data, fit = fitted
    monkeypatch.setattr(importance, "ROWS", 4)
    found = importance.evidence(zoo, data, fit.params, num_particles=30, library="pyro")
    assert found.rows.shape == (10,)
    assert found.log_evidence == pytest.approx(fit.elbo, rel=1e-10)


def test_free_local_fields_are_weighed_with_their_rows(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, data, fit = fitted
    monkeypatch.setattr(importance, "ROWS", 4)
    params = zoo.closed_form.local_optimum(fit.params, data, fit.prior, zoo.spec)
    found = importance.evidence(zoo, data, params, num_particles=30, library="pyro")
    assert found.log_evidence == pytest.approx(fit.elbo, rel=1e-10)


def test_weights_in_closed_form() -> None:
    """p = Normal(0, 1) and q = Normal(0, s^2): the second moment of its weights is known."""
    s, count = 1.5, 200_000
    z = s * np.random.default_rng(0).normal(size=count)
    log_w = -0.5 * z**2 + 0.5 * (z / s) ** 2 + np.log(s)
    found = importance.of_log_weights(log_w[:, None])
    # E w^2 = s^2 / sqrt(2 s^2 - 1) for s^2 > 1/2.
    second = s**2 / np.sqrt(2 * s**2 - 1)
    assert found.ess[0] / count == pytest.approx(1 / second, rel=0.01)
    assert found.error == pytest.approx(np.sqrt((second - 1) / count), rel=0.02)
    assert abs(found.log_evidence) < 5 * found.error


def test_few_particles_have_no_khat() -> None:
    found = importance.of_log_weights(np.random.default_rng(0).normal(size=(5, 3)))
    assert np.isnan(found.khat).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"proposal": "posterior"}, "proposal is 'posterior': give 'guide', 'prior', or"),
        ({"proposal": 0.0}, "proposal is 0.0"),
        ({"num_particles": 1}, "num_particles is 1"),
        ({"library": "jax"}, "library"),
        ({"params": None}, "params"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], line: str, fitted: Any) -> None:
    zoo, data, fit = fitted
    given = {"params": fit.params, **options}
    with pytest.raises(lz.UserError, match=line) as caught:
        importance.evidence(zoo, data, **given)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_weighed() -> None:
    zoo = lz.get("earthquakes", num_components=2)
    data, _ = zoo.simulate(seed=0, num_rows=5)
    params = zoo.init(data)
    assert isinstance(params, Params)
    with pytest.raises(lz.UserError, match="enumerated"):
        importance.evidence(zoo, data, params, library="pyro")
    with pytest.raises(lz.UserError, match="the guide draws from a Gamma"):
        importance.evidence(zoo, data, params, library="pyro", proposal=2.0)
