"""SVI in both libraries: it arrives where CAVI does, and both take the same way there."""

from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import svi
from latentzoo.inference.minibatches import Minibatches
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.ppl import LIBRARIES

ENOUGH = 1e-3  # of the gap between the start and the optimum


class Start:
    """Three clear clusters, and a start from which CAVI finds them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.zoo = lz.get("earthquakes", num_components=3)
        component = np.arange(90) % 3
        location = np.array([[0.0, 0.0], [8.0, 1.0], [3.0, 9.0]])[component] + rng.normal(size=(90, 2))
        strength = rng.poisson(np.array([5.0, 20.0, 60.0])[component]).astype(float)
        self.data = self.zoo.Data(location, strength)
        self.prior = self.zoo.prior(self.data, noise_variance=1.0)
        self.params = self.zoo.init(self.data, self.prior, seed=1)
        self.cavi = lz.fit(self.zoo, self.data, "cavi", prior=self.prior, init=self.params, progress=False)

    def fit(self, **options: Any) -> Any:
        given = {"prior": self.prior, "init": self.params, "progress": False, **options}
        return lz.fit(self.zoo, self.data, "svi", **given)

    def gap(self, elbo: float) -> float:
        """How far the bound is from CAVI's, as a part of the way there."""
        return (self.cavi.elbo - elbo) / (self.cavi.elbo - self.cavi.elbo_trace[0])


@pytest.fixture(scope="module")
def start() -> Start:
    return Start()


@pytest.fixture(scope="module", params=LIBRARIES)
def fitted(start: Start, request: pytest.FixtureRequest) -> Any:
    return start.fit(library=request.param)


def test_it_arrives_at_the_bound_of_cavi(start: Start, fitted: Any) -> None:
    assert fitted.converged
    assert "no longer rises" in fitted.reason
    assert 0.0 < start.gap(fitted.elbo) < ENOUGH


def test_the_bound_of_a_fit_is_exact_and_its_trace_is_an_estimate(start: Start, fitted: Any) -> None:
    form, zoo = start.zoo.closed_form, start.zoo
    stats = form.e_step(fitted.params, start.data, start.prior, zoo.spec)
    assert fitted.elbo == float(form.elbo(stats, fitted.params, start.prior, zoo.spec))
    assert fitted.elbo_error == 0.0
    assert fitted.num_steps == fitted.trace.step[-1] == svi.BLOCK * len(fitted.elbo_trace)
    assert fitted.num_gradients == fitted.num_steps
    # The mean of a block of noisy bounds; each is off by a few nats.
    assert fitted.elbo_trace[-1] == pytest.approx(fitted.elbo, abs=3.0)


def test_the_libraries_take_the_same_steps_where_there_is_no_noise(start: Start) -> None:
    """At the optimum of the continuous blocks given free q(component), log p - log q is the same at every draw.

    Its pathwise gradient is then noise of mean zero, so the steps differ; but one step of SGD by no rate at all must
    leave the parameters, and its loss must be the bound, in both libraries to 1e-10.
    """
    zoo, form = start.zoo, start.zoo.closed_form
    free = form.local_optimum(start.params, start.data, start.prior, zoo.spec)
    block = form.m_step(form.e_step(free, start.data, start.prior, zoo.spec), free, start.prior, zoo.spec)
    params = block._replace(phi=block.phi._replace(component_logits=free.phi.component_logits))
    bound = float(form.elbo(form.e_step(params, start.data, start.prior, zoo.spec), params, start.prior, zoo.spec))
    for library in LIBRARIES:
        with pytest.warns(lz.Note, match="num_steps = 3"):
            fit = start.fit(library=library, init=params, optimiser="sgd", learning_rate=1e-300, num_steps=3)
        assert fit.elbo_trace == pytest.approx([bound], rel=1e-10)
        for name, leaf in leaves(params).items():
            np.testing.assert_allclose(leaves(fit.params)[name], leaf, rtol=0.0, atol=1e-290)


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_the_same_again(start: Start, library: Any) -> None:
    options = {"library": library, "num_steps": 60, "batch_rows": 30}
    with pytest.warns(lz.Note, match="not converged"):
        one, again, other = (start.fit(seed=seed, **options) for seed in (3, 3, 4))
    for name, leaf in leaves(one.params).items():
        np.testing.assert_array_equal(leaves(again.params)[name], leaf)
    assert one.elbo != other.elbo


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.filterwarnings("ignore::latentzoo.Note")
def test_a_fit_goes_on_from_a_file(start: Start, library: Any, tmp_path: Any) -> None:
    """100 steps are 50 and another 50, to the bit: parameters, moments of Adam and random numbers all go on."""
    options = {"library": library, "schedule": "constant", "tol": 0.0}
    whole = start.fit(num_steps=100, **options)
    half = start.fit(num_steps=50, **options)
    rest = start.fit(num_steps=50, init=lz.load(half.save(tmp_path / "half.npz")), **options)
    fresh = start.fit(num_steps=50, init=half.params, **options)
    for name, leaf in leaves(whole.params).items():
        np.testing.assert_array_equal(leaves(rest.params)[name], leaf)
    assert fresh.elbo != rest.elbo  # parameters alone are another way on: the moments of Adam are forgotten


@pytest.mark.parametrize("library", LIBRARIES)
def test_minibatches_arrive_too(start: Start, library: Any) -> None:
    fit = start.fit(library=library, batch_rows=30, learning_rate=0.1)
    assert start.gap(fit.elbo) < 10 * ENOUGH
    assert fit.num_gradients == pytest.approx(fit.num_steps / 3)


def test_minibatches_visit_every_row_as_often() -> None:
    data = lz.get("earthquakes").Data(np.zeros((10, 2)), np.ones(10))
    batches = Minibatches(data, 3, seed=0)
    epochs = batches.rows(0, 600).reshape(200, 9)
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    counts = np.bincount(np.concatenate(epochs), minlength=10)
    assert counts.sum() == 1800
    np.testing.assert_array_equal(batches.rows(7, 100), batches.rows(0, 200)[7:107])
    assert np.abs(counts - 180).max() < 5 * np.sqrt(200 * 0.9 * 0.1)  # each epoch leaves one of ten rows out


def test_a_rate_that_falls_goes_to_its_end() -> None:
    for schedule, decay in svi.DECAYS.items():
        rates = np.concatenate([svi._multipliers(schedule, 0, done, 50, 200) for done in range(0, 200, 50)])
        assert rates[0] == 1.0, schedule
        assert (np.diff(rates) <= 0.0).all()
        assert decay(np.ones(1))[0] <= 1.0
    assert svi._multipliers("cosine", 0, 150, 50, 200)[-1] < 1e-3
    levels = [svi._multipliers("plateau", level, 0, 1, 100)[0] for level in range(len(svi.LEVELS))]
    assert levels == sorted(levels, reverse=True)


def test_a_plateau_is_seen_through_the_noise() -> None:
    rng = np.random.default_rng(0)

    def blocks_until(slope: float, most: int = 60) -> int:
        plateau = svi.Plateau(tol=1e-8)
        for number in range(most):
            steps = svi.BLOCK * number + np.arange(svi.BLOCK)
            if plateau.reached(-100.0 + slope * steps + rng.normal(size=svi.BLOCK)):
                return number + 1
        return most

    assert blocks_until(slope=0.1) == 60  # it rises by five nats a block: never flat
    assert blocks_until(slope=0.0) < 15
    assert svi.Plateau(tol=1e-8).reached(np.zeros(svi.BLOCK)) is False  # one block is not enough


def test_restarts_start_elsewhere_and_the_best_is_kept(start: Start) -> None:
    with pytest.warns(lz.Note, match="not converged"):
        fit = start.fit(num_restarts=3, num_steps=100)
    assert len(fit.restarts) == 3
    assert fit.elbo == max(restart.elbo for restart in fit.restarts)
    assert len({restart.elbo for restart in fit.restarts}) == 3


def test_what_it_cannot_use_is_refused(start: Start) -> None:
    for options, message in (
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be a number, above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"optimiser": "adm"}, "did you mean 'adam'"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"batch_rows": 91}, "batch_rows is 91: the data have 90 rows"),
        ({"num_particles": 1.5}, "num_particles is 1.5"),
        ({"library": "numpy"}, "no library 'numpy'"),
        ({"num_chains": 4}, "num_chains"),
    ):
        with pytest.raises(lz.UserError, match=message) as raised:
            start.fit(**options)
        assert "\n" not in str(raised.value)


def test_the_users_state_is_left_alone(start: Start) -> None:
    import jax
    import pyro
    import torch

    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(3.0))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.warns(lz.Note, match="not converged"):
        start.fit(library="pyro", num_steps=3)
    assert dict(pyro.get_param_store()) == {"mine": torch.tensor(3.0)}
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert not jax.config.jax_enable_x64
