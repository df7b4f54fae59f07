"""Discrete codes in use: proofs, every estimator through `fit`, hard data, mistakes, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.closed_form import discrete_vae as closed_form
from latentzoo.models.language.contract import leaves, map_leaves
from latentzoo.models.readers.table import names_of

SMALL: dict[str, Any] = {"num_latents": 2, "num_states": 3, "hidden": (5,)}
PATTERNS = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1]], dtype=np.float64)


def patterns(num_rows: int = 90, flips: float = 0.03, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three patterns with a few bits flipped, and which pattern each is of."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(PATTERNS), num_rows)
    return np.abs(PATTERNS[kind] - (rng.random((num_rows, 8)) < flips)), kind


# --- proofs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "spec"),
    [
        ("pyro", {}),  # every likelihood
        ("pyro", {"num_latents": 1, "likelihood": "learned_gaussian"}),
        ("pyro", {"num_latents": 4, "num_states": 2, "hidden": (), "likelihood": "bernoulli"}),
        ("numpyro", {"likelihood": "learned_gaussian"}),
    ],
)
def test_hand_equals_automatic(library: Any, spec: dict[str, Any]) -> None:
    report = lz.verify("discrete_vae", library=library, num_points=1, progress=False, **{**SMALL, **spec})
    assert report.ok, str(report)
    assert max(row.error / row.tolerance for row in report.rows) < 1e-2


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "estimator"),
    [
        *(("pyro", each) for each in (None, "enumerated", "relaxed", "straight-through", "score")),
        ("pyro", "score-leave-one-out"),
        *(("numpyro", each) for each in ("relaxed", "straight-through")),
    ],
)
def test_every_estimator_climbs_and_reports_the_exact_bound(library: Any, estimator: str | None) -> None:
    """What a relaxation climbs is another number: the bound of the fit is that of discrete codes all the same."""
    zoo = lz.get("discrete_vae", **{**SMALL, "num_latents": 1})
    data = zoo.Data(patterns(30)[0])
    options: dict[str, Any] = {"estimator": estimator, "num_particles": 2} if estimator else {}
    with pytest.warns(lz.Note, match="not converged"):
        fit = lz.fit(zoo, data, library=library, num_steps=40, progress=False, **options)
    start = zoo.init(data, fit.prior)
    before = closed_form.bounds(start, data, fit.prior, {}, zoo.spec).sum()
    assert fit.elbo > before
    assert fit.elbo == pytest.approx(closed_form.bounds(fit.params, data, fit.prior, {}, zoo.spec).sum(), rel=1e-12)
    assert fit.elbo_error == 0.0


def test_the_score_function_draws_what_enumeration_sums() -> None:
    zoo = lz.get("discrete_vae", **{**SMALL, "num_latents": 1})
    data = zoo.Data(patterns(30)[0])
    ends = set()
    for estimator in ("enumerated", "score", "score-leave-one-out"):
        with pytest.warns(lz.Note, match="not converged"):
            fit = lz.fit(zoo, data, library="pyro", num_steps=3, progress=False, estimator=estimator, num_particles=2)
        ends.add(fit.elbo)
    assert len(ends) == 3


def test_a_code_finds_the_patterns() -> None:
    """A state for each pattern, and hardly a gap between the bound and the evidence."""
    x, kind = patterns()
    zoo = lz.get("discrete_vae", num_latents=1, num_states=4, hidden=(8,))
    data = zoo.Data(x)
    with pytest.warns(lz.Note, match="not converged"):
        fit = lz.fit(zoo, data, num_steps=1000, schedule="constant", learning_rate=0.02, seed=1, progress=False)
    found = fit.predict(data)
    state = found["code"][:, 0]
    counts = np.zeros((4, 3))
    np.add.at(counts, (state, kind), 1)
    assert counts.max(1).sum() == len(x)  # no state is of two patterns
    np.testing.assert_array_equal(found["x"] > 0.5, PATTERNS[kind] > 0.5)
    assert closed_form.gaps(fit.params, data, fit.prior, zoo.spec).mean() < 0.05


# --- hard data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "learned_gaussian"])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1e3])
def test_extreme_parameters_stay_finite(likelihood: str, factor: float) -> None:
    """Networks of nothing, and ones that are sure of everything: probabilities underflow, their logarithms do not."""
    zoo = lz.get("discrete_vae", **SMALL, likelihood=likelihood)
    data = zoo.check(zoo.Data(np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])))
    prior = zoo.prior(data, probs=[[1e-300, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    params = map_leaves(lambda name, leaf: leaf if "noise" in name else factor * leaf, zoo.init(data, prior, seed=1))
    value, gradient = closed_form.value_and_gradient(params, data, prior, {}, zoo.spec)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in leaves(gradient).values())
    assert all(np.isfinite(leaf).all() for leaf in zoo.closed_form.predict(params, data, prior, zoo.spec).values())
    gaps = closed_form.gaps(params, data, prior, zoo.spec)
    assert (gaps > -1e-9 * abs(value)).all()


@pytest.mark.parametrize(("num_latents", "num_states"), [(12, 2), (1, 4096), (2, 64)])
def test_as_many_codes_as_may_be(num_latents: int, num_states: int) -> None:
    zoo = lz.get("discrete_vae", num_latents=num_latents, num_states=num_states, hidden=(5,))
    data = zoo.Data(patterns(600)[0])
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    bounds = closed_form.bounds(params, data, prior, {}, zoo.spec)
    assert (bounds <= closed_form.log_predictive(params, data, prior, zoo.spec)).all()


def test_one_row_and_data_of_zeros() -> None:
    zoo = lz.get("discrete_vae", **SMALL)
    for x in (np.zeros((1, 1)), np.zeros((4, 2)), np.full((3, 2), 0.5)):
        with pytest.warns(lz.Note, match="not converged"):
            fit = lz.fit(zoo, zoo.Data(x), library="pyro", num_steps=3, progress=False)
        assert np.isfinite(fit.elbo)
        assert fit.predict(zoo.Data(x))["x"].shape == x.shape


# --- mistakes ---------------------------------------------------------------------------------------------------------


X = patterns(6)[0]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda zoo: lz.get("discrete_vae", num_states=1), "num_states is 1: it must be at least 2"),
        (lambda zoo: lz.get("discrete_vae", num_states=2.5), "num_states is 2.5"),
        (lambda zoo: lz.get("discrete_vae", num_latents=0), "num_latents is 0"),
        (lambda zoo: lz.get("discrete_vae", num_latents=13, num_states=2), "may be 4,096 at most"),
        (lambda zoo: lz.get("discrete_vae", num_latents=1000, num_states=10**6), "may be 4,096 at most"),
        (lambda zoo: lz.get("discrete_vae", hidden=(0,)), "hidden has a layer of 0"),
        (lambda zoo: lz.get("discrete_vae", num_state=3), "did you mean 'num_states'"),
        (lambda zoo: zoo.prior(probs=[[0.5, 0.5, 0.5], [0.2, 0.3, 0.5]]), "prior.probs[0, 0] is 0.5"),
        (lambda zoo: zoo.prior(probs=[0.2, 0.3, 0.5]), "prior.probs has shape (3,)"),
        (lambda zoo: zoo.prior(probs=[[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]]), "prior.probs[0, 0] is 0"),
        (lambda zoo: zoo.prior(noise_scale=0.0), "prior.noise_scale is 0"),
        (lambda zoo: lz.fit(zoo, zoo.Data(2.0 * X)), "a Bernoulli value is from 0 to 1"),
        (lambda zoo: lz.fit(zoo, zoo.Data(np.where(X > 0, np.nan, X))), "is nan"),
        (lambda zoo: lz.fit(zoo, zoo.Data(X[0])), "data.x has shape (8,)"),
        (lambda zoo: lz.fit(zoo, zoo.Data(X), library="pyro", estimator="iwae"), "has no place for enumerated ones"),
        (lambda zoo: lz.fit(zoo, zoo.Data(X), "cavi"), "no method of discrete_vae 'cavi'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(mistake: Any, words: str) -> None:
    with pytest.raises(lz.UserError) as error:
        mistake(lz.get("discrete_vae", **SMALL))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_other_features_than_those_of_the_parameters() -> None:
    zoo = lz.get("discrete_vae", **SMALL)
    data = zoo.Data(X)
    prior = zoo.prior(data)
    with pytest.raises(lz.UserError, match=r"data\.x has 5 features: these parameters are of 8"):
        closed_form.bounds(zoo.init(data, prior), zoo.Data(X[:, :5]), prior, {}, zoo.spec)


# --- simulation and files ---------------------------------------------------------------------------------------------


def test_codes_are_drawn_as_the_prior_says() -> None:
    zoo = lz.get("discrete_vae", num_latents=2, num_states=2, hidden=(3,))
    prior = zoo.prior(probs=[[0.9, 0.1], [0.3, 0.7]])
    data, truth = zoo.simulate(seed=0, num_rows=4000, prior=prior)
    assert data.x.shape == (4000, 6)
    assert set(truth) == {"code0", "code1"}
    for index, name in enumerate(truth):
        share, probability = (truth[name] == 0).mean(), prior.probs[index, 0]
        assert abs(share - probability) < 5.0 * np.sqrt(probability * (1.0 - probability) / 4000)


def test_a_table_keeps_the_names_of_its_columns(tmp_path: Path) -> None:
    zoo = lz.get("discrete_vae", **SMALL)
    file = tmp_path / "bits.csv"
    file.write_text("name,b,a\none,0,1\ntwo,1,0.5\n")
    data = zoo.read(file)
    assert names_of(data, 2) == ("b", "a")
    np.testing.assert_array_equal(data.x, [[0.0, 1.0], [1.0, 0.5]])
    again = tmp_path / "again.csv"
    again.write_text("a,b\n1,0\n")
    np.testing.assert_array_equal(zoo.read(again, like=data).x, [[0.0, 1.0]])
