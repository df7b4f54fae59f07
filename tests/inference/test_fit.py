"""`fit` with methods and guides of one's own, and parameters that move between the libraries."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.models.language.ppl import LIBRARIES


def catalogue(zoo: Any, num_rows: int) -> Any:
    rng = np.random.default_rng(0)
    return zoo.Data(rng.normal(size=(num_rows, 2)), rng.poisson(8.0, num_rows).astype(float))


class Problem:
    """With one component and known noise the ELBO of CAVI is the log evidence."""

    def __init__(self, num_components: int) -> None:
        self.zoo = lz.get("earthquakes", num_components=num_components)
        self.data = catalogue(self.zoo, 12)
        self.prior = self.zoo.prior(self.data, noise_variance=1.0)
        self.exact = lz.fit(self.zoo, self.data, prior=self.prior, progress=False)

    def fit(self, method: Any, **options: Any) -> Any:
        return lz.fit(self.zoo, self.data, method, **{"prior": self.prior, "progress": False, **options})


@pytest.fixture(scope="module")
def one() -> Problem:
    return Problem(1)


@pytest.fixture(scope="module")
def two() -> Problem:
    return Problem(2)


# --- a method of one's own --------------------------------------------------------------------------------------------


def damped(zoo: Any, data: Any, prior: Any, params: lz.Params) -> Iterator[lz.Params]:
    """CAVI, half a step at a time."""
    form = zoo.closed_form
    for _ in range(60):
        moved = form.m_step(form.e_step(params, data, prior, zoo.spec), params, prior, zoo.spec)
        pairs = [(a, b) for a, b in zip(params.phi, moved.phi, strict=True) if a is not None]
        params = lz.Params(phi=type(params.phi)(*((a + b) / 2.0 for a, b in pairs)))
        yield params


def test_a_callable_is_a_method(one: Problem) -> None:
    fit = one.fit(damped)
    assert fit.method == fit.label == "damped"
    assert fit.converged
    assert fit.num_steps == 60
    assert (np.diff(fit.elbo_trace)[:20] > 0.0).all()
    assert fit.elbo == fit.elbo_trace[-1] == pytest.approx(one.exact.elbo, abs=1e-9)
    with pytest.warns(lz.Note, match="damped has not converged: num_steps = 5 came first"):
        cut = one.fit(damped, num_steps=5, keep_history=True)
    assert len(cut.history) == 5
    np.testing.assert_array_equal(cut.elbo_trace, fit.elbo_trace[:5])


def test_a_callable_may_return_what_it_found(one: Problem) -> None:
    fit = one.fit(lambda zoo, data, prior, params: one.exact.params)
    assert fit.elbo == one.exact.elbo
    assert fit.num_steps == 1


def test_a_callable_that_finds_nothing_is_told(one: Problem) -> None:
    with pytest.raises(lz.UserError, match="your method gave a float: it must return or yield Params"):
        one.fit(lambda *_: [3.0])
    with pytest.raises(lz.UserError, match="learning_rate"):
        one.fit(damped, learning_rate=0.1)
    with pytest.raises(lz.UserError, match="it has taken no step"):
        one.fit(lambda *_: [])


# --- a guide of one's own ---------------------------------------------------------------------------------------------


def own_guide_numpyro(data: Any, prior: Any, params: Any) -> None:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.distributions import constraints

    loc = numpyro.param("centre", jnp.zeros((1, 2)))
    scale = numpyro.param("width", jnp.ones(1), constraint=constraints.positive)
    shape = numpyro.param("shape", jnp.full(1, 90.0), constraint=constraints.positive)
    rate = numpyro.param("speed", jnp.full(1, 11.0), constraint=constraints.positive)
    with numpyro.plate("components", 1):
        numpyro.sample("loc", dist.Normal(loc, scale[..., None]).to_event(1))
        numpyro.sample("rate", dist.Gamma(shape, rate))
    # Without this site the model's own is summed out, on which NumPyro fails where the plate has size one.
    with numpyro.plate("events", len(data.strength)):
        numpyro.sample(
            "component", dist.Categorical(logits=jnp.zeros((len(data.strength), 1))), infer={"enumerate": "parallel"}
        )


def own_guide_pyro(data: Any, prior: Any, params: Any) -> None:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.distributions import constraints

    one = torch.ones(1, dtype=torch.float64)
    loc = pyro.param("centre", torch.zeros((1, 2), dtype=torch.float64))
    scale = pyro.param("width", one, constraint=constraints.positive)
    shape = pyro.param("shape", 90.0 * one, constraint=constraints.positive)
    rate = pyro.param("speed", 11.0 * one, constraint=constraints.positive)
    with pyro.plate("components", 1):
        pyro.sample("loc", dist.Normal(loc, scale[..., None]).to_event(1))
        pyro.sample("rate", dist.Gamma(shape, rate))


@pytest.fixture(scope="module", params=LIBRARIES)
def own(one: Problem, request: pytest.FixtureRequest) -> Any:
    guide = {"numpyro": own_guide_numpyro, "pyro": own_guide_pyro}[request.param]
    return one.fit("svi", guide=guide, library=request.param, schedule="cosine", num_steps=2000)


def test_a_guide_of_ones_own_finds_the_evidence(one: Problem, own: Any) -> None:
    """It holds the exact posterior: its bound, by draws, comes within its own error of the log evidence."""
    assert own.converged
    assert 0.0 < own.elbo_error < 0.02
    assert one.exact.elbo - 0.05 < own.elbo < one.exact.elbo + 4.0 * own.elbo_error
    assert set(own.params.phi) == {"centre", "width", "shape", "speed"}
    assert (own.params.phi["width"] > 0.0).all()
    assert own.params.phi["centre"] == pytest.approx(one.exact.params.phi.loc_mean, abs=0.1)


def test_what_follows_from_a_fit_follows_from_it(one: Problem, own: Any, tmp_path: Any) -> None:
    draws, exact = own.posterior(2000), one.exact.posterior(2000)
    assert set(draws) == {"loc", "rate"}
    for site, values in draws.items():
        assert values.mean(0) == pytest.approx(exact[site].mean(0), abs=4.0 * exact[site].std() / 30.0)
    assert own.diagnostics(500)["khat"] < 0.7
    assert (own.predict()["responsibilities"] == 1.0).all()
    density = own.evaluate(num_draws=500)["log_density"]
    assert density == pytest.approx(one.exact.evaluate(num_draws=500)["log_density"], abs=0.2)
    path = own.save(tmp_path / "fit.npz")
    lost = lz.load(path, data=one.data)
    with pytest.raises(lz.UserError, match=r"your own \(own_guide_.*lz.load\(path, guide=...\)"):
        lost.posterior(10)
    guide = {"numpyro": own_guide_numpyro, "pyro": own_guide_pyro}[own.library]
    again = lz.load(path, guide=guide, data=one.data)
    np.testing.assert_array_equal(again.posterior(10)["rate"], own.posterior(10)["rate"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_autoguide_by_its_name(two: Problem, library: Any, tmp_path: Any) -> None:
    """It starts where the model's guide does. With the components summed out its bound may pass that of mean field."""
    with pytest.warns(lz.Note, match="not converged"):
        fit = two.fit("svi", guide="AutoNormal", library=library, num_steps=250)
    assert fit.guide.name == "AutoNormal"
    assert abs(fit.elbo - two.exact.elbo) < 3.0
    again = lz.load(fit.save(tmp_path / "fit.npz"))  # an AutoGuide is made anew
    np.testing.assert_array_equal(again.posterior(10)["loc"], fit.posterior(10)["loc"])


@pytest.mark.filterwarnings("ignore::latentzoo.Note")
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_both_libraries_optimise_alike(two: Problem, optimiser: Any) -> None:
    """A point has no noise, so both libraries must take the same path to the maximum a posteriori: to 1e-10."""
    rates = {"adam": 0.05, "sgd": 1e-4}
    options = {"guide": "AutoDelta", "num_steps": 60, "optimiser": optimiser, "learning_rate": rates[optimiser]}
    fits = {library: two.fit("svi", library=library, schedule="cosine", **options) for library in LIBRARIES}
    points = {library: fit.posterior(2) for library, fit in fits.items()}
    start = lz.fit(two.zoo, two.data, "cavi", prior=two.prior, num_steps=1, progress=False).posterior(2)
    for site, value in points["pyro"].items():
        np.testing.assert_allclose(points["numpyro"][site], value, rtol=1e-10, atol=1e-10)
        assert np.abs(value - start[site]).max() > 1e-3  # it has moved
    assert fits["pyro"].elbo == pytest.approx(fits["numpyro"].elbo, rel=1e-10)
    assert fits["pyro"].elbo_trace == pytest.approx(fits["numpyro"].elbo_trace, rel=1e-10)
    assert fits["pyro"].diagnostics(30)["khat"] == np.inf  # a point is no posterior


def test_guides_that_cannot_be_used_are_refused(one: Problem) -> None:
    for options, message in (
        ({"guide": "AutoNorml"}, "did you mean 'AutoNormal'"),
        ({"guide": 3}, "guide is a int: give a callable"),
        ({"guide": "AutoMultivariateNormal"}, "fails on a model with enumerated sites"),
        ({"guide": "AutoNormal", "method": "cavi"}, "guide= is for method='svi'"),
    ):
        method = options.pop("method", "svi")
        with pytest.raises(lz.UserError, match=message):
            one.fit(method, **options)


# --- libraries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_parameters_move_between_the_libraries(library: Any) -> None:
    """Found by one library, the bound is the same in the other and by hand: 1e-10 of its size."""
    zoo = lz.get("earthquakes", num_components=2, noise="shared", weights="dirichlet")
    data = catalogue(zoo, 15)
    with pytest.warns(lz.Note, match="not converged"):
        fit = lz.fit(zoo, data, "svi", library=library, num_steps=100, progress=False)
    report = lz.verify(fit)
    assert report.ok
    bounds = {row.library: row for row in report.rows if row.quantity == "elbo"}
    assert set(bounds) == set(LIBRARIES)
    for row in bounds.values():
        assert row.hand == fit.elbo
        assert row.automatic == pytest.approx(fit.elbo, rel=1e-10)


def test_a_library_where_there_is_none_is_refused(one: Problem) -> None:
    with pytest.raises(lz.UserError, match="library is 'pyro': cavi needs none"):
        one.fit("cavi", library="pyro")
    with pytest.raises(lz.UserError, match=r"no library 'pyr'.*did you mean 'pyro'"):
        one.fit("svi", library="pyr")


def test_a_sampler_is_no_start(one: Problem) -> None:
    with pytest.warns(lz.Note, match="not converged"):
        sampled = one.fit("nuts", num_steps=10, num_warmup=5, num_chains=1)
    with pytest.raises(lz.UserError, match="init has no parameters of the model's guide"):
        one.fit("svi", init=sampled)
    with pytest.raises(lz.UserError, match="num_steps is 3: it must be a whole number, at least 4"):
        one.fit("nuts", num_steps=3)
    with pytest.raises(lz.UserError, match="nuts has chains instead"):
        one.fit("nuts", num_restarts=2)
    with pytest.raises(lz.UserError, match="no hand-derived bound"):
        lz.verify(sampled)
