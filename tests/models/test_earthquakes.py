"""The super-epicentres in use: hard data, both libraries, and processes that load only one of them."""

import functools
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro
import optax
import pyro
import pytest
import torch

import latentzoo as lz
from latentzoo.inference.closed_form import earthquakes as closed_form
from latentzoo.models.language.binding import Bound
from latentzoo.models.language.contract import leaves, take_rows
from latentzoo.models.language.ppl import LIBRARIES

Variant = dict[str, str]
VARIANTS = [
    {"weights": weights, "noise": noise}
    for weights, noise in itertools.product(("fixed", "dirichlet"), ("known", "shared", "per_component"))
]


def ids(variant: Variant) -> str:
    return f"{variant['weights']}-{variant['noise']}"


every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=ids)


def catalogue(zoo: Any, num_rows: int = 15, seed: int = 0) -> Any:
    """Three clusters with counts of their own."""
    rng = np.random.default_rng(seed)
    component = np.arange(num_rows) % 3
    centres = np.array([[0.0, 0.0], [8.0, 1.0], [3.0, 9.0]])
    location = centres[component] + rng.normal(size=(num_rows, 2))
    return zoo.Data(location, rng.poisson(np.array([5.0, 20.0, 60.0])[component]).astype(float))


def elbo(zoo: Any, data: Any, prior: Any, params: lz.Params) -> float:
    return float(closed_form.elbo(closed_form.e_step(params, data, prior, zoo.spec), params, prior, zoo.spec))


# --- hard data --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PLACES, COUNTS = RNG.normal(size=(24, 2)), RNG.poisson(9.0, 24).astype(float)
TWO_CLUMPS = PLACES * 1e-3 + np.where(np.arange(24) % 2, 40.0, -40.0)[:, None]
# Name: locations, counts, number of components, fields of the prior.
HARD: dict[str, tuple[np.ndarray, np.ndarray, int, dict[str, Any]]] = {
    "empty components": (TWO_CLUMPS, COUNTS, 12, {}),
    "more components than rows": (PLACES[:3], COUNTS[:3], 8, {}),
    "one row": (PLACES[:1], COUNTS[:1], 3, {}),
    "one row, one component": (PLACES[:1], COUNTS[:1], 1, {}),
    "duplicates": (np.repeat(PLACES[:1], 24, 0), np.repeat(COUNTS[:1], 24), 3, {}),
    "duplicates of two": (np.repeat(PLACES[:2], 12, 0), np.repeat(COUNTS[:2], 12), 4, {}),
    "on a line": (PLACES * [1.0, 0.0], COUNTS, 3, {}),
    "zero counts": (PLACES, np.zeros(24), 3, {}),
    "counts of 1e9": (PLACES, 1e9 + COUNTS, 3, {}),
    "counts of 0 and 1e9": (PLACES, 1e9 * (np.arange(24) % 2), 3, {}),
    "coordinates of 1e6": (PLACES + 1e6, COUNTS, 3, {}),
    "a spread of 1e6": (PLACES * 1e6, COUNTS, 3, {}),
    "a spread of 1e-6": (PLACES * 1e-6, COUNTS, 3, {}),
    "a prior far away": (PLACES + 1e6, COUNTS, 3, {"loc_mean": np.array([-1e6, 0.0]), "loc_variance": 1.0}),
    "a vague prior far away": (PLACES + 1e6, COUNTS, 3, {"loc_mean": np.zeros(2), "loc_variance": 1e14}),
    "metres, from the equator": (TWO_CLUMPS + 5e6, COUNTS, 2, {"loc_mean": np.zeros(2), "loc_variance": 1e14}),
    "a rate far away": (PLACES, COUNTS, 3, {"strength_shape": 1e8, "strength_rate": 1e-3}),
    "a sharp noise": (PLACES, COUNTS, 3, {"noise_variance": 1e-10, "noise_rate": 1e-10}),
    "a wide noise": (PLACES, COUNTS, 3, {"noise_variance": 1e10, "noise_rate": 1e10}),
}


@every_variant
@pytest.mark.parametrize("case", HARD)
def test_hard_data_have_finite_fits(variant: Variant, case: str) -> None:
    location, strength, size, given = HARD[case]
    zoo = lz.get("earthquakes", num_components=size, **variant)
    data = zoo.Data(location, strength)
    usual = zoo.prior(data)
    prior = zoo.prior(data, **{name: np.asarray(v) for name, v in given.items() if getattr(usual, name) is not None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lz.Note)  # a slow case may stop at num_steps; any other warning is an error
        fit = lz.fit(zoo, data, "cavi", prior=prior, tol=1e-12, num_steps=400, progress=False)
    assert np.isfinite(fit.elbo_trace).all()
    for name, leaf in leaves(fit.params.phi).items():
        assert np.isfinite(leaf).all(), name
    resp = fit.predict()["responsibilities"]
    np.testing.assert_allclose(resp.sum(1), 1.0, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data._replace(strength=None), "strength"),
        (lambda data: data._replace(location=None), "location"),
    ],
)
def test_data_must_be_whole(change: Callable[[Any], Any], message: str) -> None:
    """Both fields are observed or none: the closed form has no place for a missing one."""
    zoo = lz.get("earthquakes")
    with pytest.raises(lz.UserError, match=message):
        lz.fit(zoo, change(catalogue(zoo)), progress=False)


def test_an_empty_component_is_its_prior() -> None:
    """With no rows to explain, q(loc) and q(rate) are the prior of both."""
    zoo = lz.get("earthquakes", num_components=3)
    data = catalogue(zoo, 12)
    prior = zoo.prior(data, weights=[0.6, 0.4 - 1e-300, 1e-300])
    fit = lz.fit(zoo, data, prior=prior, progress=False)
    phi = fit.params.phi
    np.testing.assert_allclose(phi.loc_mean[2], prior.loc_mean, rtol=1e-12)
    np.testing.assert_allclose(np.exp(2.0 * phi.loc_log_scale[2]), prior.loc_variance, rtol=1e-12)
    np.testing.assert_allclose(np.exp(phi.rate_log_shape[2]), prior.strength_shape, rtol=1e-12)
    np.testing.assert_allclose(np.exp(phi.rate_log_rate[2]), prior.strength_rate, rtol=1e-12)


# --- Pyro and NumPyro -------------------------------------------------------------------------------------------------


@every_variant
def test_svi_in_pyro(variant: Variant) -> None:
    zoo = lz.get("earthquakes", **variant)
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params, same = zoo.init(data, prior), zoo.init(data, prior)
    pyro.set_rng_seed(0)
    svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.05}), zoo.loss.pyro())
    for _ in range(30):
        svi.step(data, prior, params)
    for name, leaf in leaves(same.phi).items():  # the optimiser works on a copy
        np.testing.assert_array_equal(leaves(params.phi)[name], leaf, err_msg=name)
    found = zoo.params(pyro.get_param_store())
    assert_params_like(found, params)
    assert elbo(zoo, data, prior, found) > elbo(zoo, data, prior, params) + 1.0


def test_svi_in_numpyro() -> None:
    zoo = lz.get("earthquakes", **VARIANTS[5])
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    svi = numpyro.infer.SVI(zoo.model.numpyro, zoo.guide.numpyro, optax.adam(0.05), zoo.loss.numpyro())
    state = svi.run(jax.random.PRNGKey(0), 30, data, prior, params, progress_bar=False)
    found = zoo.params(state.params)
    assert_params_like(found, params)
    assert elbo(zoo, data, prior, found) > elbo(zoo, data, prior, params) + 1.0


def assert_params_like(found: lz.Params, params: lz.Params) -> None:
    """The same fields and shapes, other values."""
    one, other = leaves(found.phi), leaves(params.phi)
    assert {name: leaf.shape for name, leaf in one.items()} == {name: leaf.shape for name, leaf in other.items()}
    assert all(np.abs(one[name] - other[name]).max() > 1e-3 for name in one)


def test_no_parameters_in_a_store_is_said() -> None:
    zoo = lz.get("earthquakes")
    pyro.param("mine", torch.ones(2))
    with pytest.raises(lz.UserError, match="no parameter of earthquakes"):
        zoo.params(pyro.get_param_store())


def test_pyro_refuses_a_store_of_other_params() -> None:
    """Pyro would keep the first values in silence."""
    zoo = lz.get("earthquakes")
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params = zoo.init(data, prior, seed=0)
    zoo.guide.pyro(data, prior, params)
    zoo.guide.pyro(data, prior, params)  # the same ones: the run goes on
    with torch.no_grad():
        pyro.param("phi.loc_mean").add_(1.0)  # as an optimiser does
    zoo.guide.pyro(data, prior, params)
    for other in (zoo.init(data, prior, seed=1), lz.get("earthquakes", num_components=5).init(data, seed=0)):
        with pytest.raises(lz.UserError, match=r"phi\.loc_mean.*pyro\.clear_param_store\(\)") as raised:
            zoo.guide.pyro(data, prior, other)
        assert "\n" not in str(raised.value)
    pyro.clear_param_store()
    zoo.guide.pyro(data, prior, zoo.init(data, prior, seed=1))


def test_pyro_refuses_a_store_of_another_entry() -> None:
    """Even of equal values: what one entry has optimised is no start for another."""
    zoo = lz.get("earthquakes")
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    Bound(zoo.guide_room.guide, zoo.spec, {"theta": zoo.Theta, "phi": zoo.Phi}, "toy").pyro(data, prior, params)
    with pytest.raises(lz.UserError, match=r"made by toy.*pyro\.clear_param_store\(\)"):
        zoo.guide.pyro(data, prior, params)


@every_variant
def test_prior_predictive_in_pyro(variant: Variant) -> None:
    zoo = lz.get("earthquakes", num_components=4, **variant)
    prior, nothing = zoo.prior(), zoo.Data()
    for parallel in (False, True):
        draw = pyro.infer.Predictive(zoo.model.pyro, num_samples=5, parallel=parallel)(nothing, prior, num_rows=7)
        assert draw["location"].shape == (5, 7, 2)
        assert draw["strength"].shape == draw["component"].shape == (5, 7)
        assert (draw["component"] < 4).all()
    with pytest.raises(lz.UserError, match="num_rows="):
        zoo.model.pyro(nothing, prior)


def test_prior_predictive_in_numpyro() -> None:
    zoo = lz.get("earthquakes", num_components=4, **VARIANTS[5])
    prior, nothing = zoo.prior(), zoo.Data()
    draw = numpyro.infer.Predictive(zoo.model.numpyro, num_samples=5)(jax.random.PRNGKey(0), nothing, prior, num_rows=7)
    assert draw["location"].shape == (5, 7, 2)
    assert draw["strength"].shape == draw["component"].shape == (5, 7)
    assert (draw["component"] < 4).all()
    with pytest.raises(lz.UserError, match="num_rows="):
        numpyro.handlers.seed(zoo.model.numpyro, 0)(nothing, prior)


def test_the_prior_predictive_is_the_model() -> None:
    """Moments of the counts over many catalogues: a Gamma-Poisson, whatever the component (5 standard errors)."""
    zoo = lz.get("earthquakes", num_components=2)
    prior = zoo.prior(strength_shape=3.0, strength_rate=0.5)
    model = numpyro.infer.Predictive(zoo.model.numpyro, num_samples=4000)
    draw = model(jax.random.PRNGKey(1), zoo.Data(), prior, num_rows=1)
    strength, x = np.asarray(draw["strength"], float)[:, 0], np.asarray(draw["location"], float)[:, 0]
    for values, mean, variance in (
        (strength, 6.0, 6.0 + 12.0),
        (x[:, 0], 0.0, float(prior.loc_variance + prior.noise_variance)),
        (x[:, 1], 0.0, float(prior.loc_variance + prior.noise_variance)),
    ):
        assert abs(values.mean() - mean) < 5.0 * np.sqrt(variance / 4000)
        squared = (values - mean) ** 2
        assert abs(squared.mean() - variance) < 5.0 * squared.std() / np.sqrt(4000)


def test_nuts_in_numpyro() -> None:
    zoo = lz.get("earthquakes", num_components=2, weights="dirichlet")
    data = catalogue(zoo)
    kernel = numpyro.infer.NUTS(zoo.model.numpyro, max_tree_depth=3)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0), data, zoo.prior(data))
    draws = mcmc.get_samples()
    shapes = {name: draw.shape for name, draw in draws.items()}
    assert shapes == {"weights": (5, 2), "loc": (5, 2, 2), "rate": (5, 2)}
    assert all(np.isfinite(draw).all() for draw in draws.values())


# --- the zero-variance certificate ------------------------------------------------------------------------------------


def certificate(zoo: Any, num_rows: int = 15) -> tuple[Any, Any, lz.Params]:
    """Parameters at which one draw gives the bound exactly, whatever the draw.

    q(component) is free and the globals are optimal given it: for a known noise, the log joint with its assignments
    summed out separates over the blocks, so that log p - log q is the same at every draw. (Not for a latent noise.)
    """
    data = catalogue(zoo, num_rows)
    given = {"weights": [0.5, 0.3, 0.2]} if zoo.spec.weights == "fixed" else {"weights_concentration": [1.0, 2.0, 0.5]}
    prior = zoo.prior(data, noise_variance=9.0, **given)
    free = closed_form.local_optimum(zoo.init(data, prior), data, prior, zoo.spec)
    best = closed_form.m_step(closed_form.e_step(free, data, prior, zoo.spec), free, prior, zoo.spec)
    phi = best.phi._replace(component_logits=free.phi.component_logits)
    # Not at the fixed point: the optimum of q(component) is elsewhere.
    resp = np.exp(closed_form.local_optimum(best, data, prior, zoo.spec).phi.component_logits)
    assert np.abs(resp - np.exp(phi.component_logits)).max() > 1e-3
    return data, prior, lz.Params(phi=phi)


def absolute(zoo: Any, data: Any, prior: Any, params: lz.Params) -> float:
    return float(closed_form.e_step(params, data, prior, zoo.spec).scale)


@pytest.mark.parametrize("weights", ["fixed", "dirichlet"])
def test_one_draw_is_the_bound_in_pyro(weights: str) -> None:
    zoo = lz.get("earthquakes", weights=weights)
    data, prior, params = certificate(zoo)
    expected, size = elbo(zoo, data, prior, params), absolute(zoo, data, prior, params)
    for options in ({}, {"num_particles": 7}, {"num_particles": 7, "vectorize_particles": True}):
        loss = zoo.loss.pyro(**options)
        for seed in range(3):
            pyro.set_rng_seed(seed)
            found = -loss.loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params)
            assert found == pytest.approx(expected, rel=0, abs=1e-10 * size), options


def test_one_draw_is_the_bound_in_numpyro() -> None:
    zoo = lz.get("earthquakes", weights="dirichlet")
    data, prior, params = certificate(zoo)
    expected, size = elbo(zoo, data, prior, params), absolute(zoo, data, prior, params)
    with jax.enable_x64(True):
        for options in ({}, {"num_particles": 7, "vectorize_particles": True}):
            loss = zoo.loss.numpyro(**options)
            compiled = jax.jit(
                lambda key, loss=loss: loss.loss(key, {}, zoo.model.numpyro, zoo.guide.numpyro, data, prior, params)
            )
            for seed in range(3):
                found = -float(compiled(jax.random.PRNGKey(seed)))
                assert found == pytest.approx(expected, rel=0, abs=1e-10 * size), options


def test_away_from_the_certificate_draws_differ() -> None:
    """Or the certificate would mean nothing; vectorised draws still average to the bound (5 standard errors)."""
    zoo = lz.get("earthquakes")
    data, prior, params = certificate(zoo)
    params = lz.Params(phi=params.phi._replace(loc_log_scale=params.phi.loc_log_scale + 0.3))
    expected = elbo(zoo, data, prior, params)
    pyro.set_rng_seed(0)
    one = zoo.loss.pyro()
    draws = [-one.loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params) for _ in range(100)]
    deviation = float(np.std(draws))
    assert deviation > 0.1
    many = zoo.loss.pyro(num_particles=4000, vectorize_particles=True)
    mean = -many.loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params)
    assert abs(mean - expected) < 5.0 * deviation / np.sqrt(4000)


# --- minibatches ------------------------------------------------------------------------------------------------------


@every_variant
def test_minibatches_average_to_the_whole_in_pyro(variant: Variant) -> None:
    """At one draw of the globals, the losses of disjoint minibatches, scaled by total_rows, average to the whole's."""
    zoo = lz.get("earthquakes", **variant)
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params, loss = zoo.init(data, prior), zoo.loss.pyro()

    def at_one_draw(rows: slice, **options: int) -> float:
        pyro.set_rng_seed(4)
        return loss.loss(zoo.model.pyro, zoo.guide.pyro, take_rows(data, rows), prior, params, **options)

    whole = at_one_draw(slice(None))
    parts = [at_one_draw(slice(start, start + 5), total_rows=15) for start in (0, 5, 10)]
    assert np.ptp(parts) > 1.0
    assert np.mean(parts) == pytest.approx(whole, rel=0, abs=1e-10 * absolute(zoo, data, prior, params))


def test_minibatches_average_to_the_whole_in_numpyro() -> None:
    zoo = lz.get("earthquakes", **VARIANTS[5])
    data = catalogue(zoo)
    prior = zoo.prior(data)
    params, loss = zoo.init(data, prior), zoo.loss.numpyro()

    @functools.partial(jax.jit, static_argnames="total_rows")
    def at_one_draw(data: Any, total_rows: int | None = None) -> Any:
        programs = zoo.model.numpyro, zoo.guide.numpyro
        return loss.loss(jax.random.PRNGKey(4), {}, *programs, data, prior, params, total_rows=total_rows)

    with jax.enable_x64(True):
        whole = float(at_one_draw(data))
        parts = [float(at_one_draw(take_rows(data, slice(i, i + 5)), total_rows=15)) for i in (0, 5, 10)]
    assert np.ptp(parts) > 1.0
    assert np.mean(parts) == pytest.approx(whole, rel=0, abs=1e-10 * absolute(zoo, data, prior, params))


# --- one library at a time --------------------------------------------------------------------------------------------

NUMPYRO_ONLY = """
import sys
import jax, numpyro, latentzoo as lz
zoo = lz.get("earthquakes")
data, _ = zoo.simulate(num_rows=20)
prior = zoo.prior(data)
params = zoo.init(data, prior)
loss = zoo.loss.numpyro().loss
jax.jit(lambda key: loss(key, {}, zoo.model.numpyro, zoo.guide.numpyro, data, prior, params))(jax.random.PRNGKey(0))
fit = lz.fit(zoo, data, progress=False)
fit.posterior(3)
print(sorted({"torch", "pyro"} & set(sys.modules)))
"""

PYRO_ONLY = """
import sys
import pyro, latentzoo as lz
zoo = lz.get("earthquakes")
data, _ = zoo.simulate(num_rows=20, library="pyro")
prior = zoo.prior(data)
params = zoo.init(data, prior)
pyro.poutine.trace(zoo.model.pyro).get_trace(zoo.Data(), prior, num_rows=5)
svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.1}), zoo.loss.pyro())
svi.step(data, prior, params)
fit = lz.fit(zoo, data, progress=False)
print(sorted({"jax", "numpyro"} & set(sys.modules)))
"""

NEITHER = """
import sys
import latentzoo as lz
zoo = lz.get("earthquakes")
data = zoo.Data([[0.0, 1.0], [2.0, 3.0], [9.0, 8.0]], [1, 2, 3])
fit = lz.fit(zoo, data, progress=False)
fit.predict()
print(sorted({"jax", "numpyro", "torch", "pyro", "arviz", "pandas", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize("script", [NUMPYRO_ONLY, PYRO_ONLY, NEITHER], ids=["numpyro", "pyro", "neither"])
def test_a_library_that_is_not_used_is_not_loaded(script: str) -> None:
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_guide_serves_the_posterior_predictive(library):
    zoo = lz.get("earthquakes", weights="dirichlet")
    data, _ = zoo.simulate(seed=1, num_rows=60)
    prior = zoo.prior(data)
    fit = lz.fit(zoo, data, prior=prior, progress=False)
    if library == "pyro":
        from pyro.infer import Predictive

        draw = Predictive(zoo.model.pyro, guide=zoo.guide.pyro, num_samples=50)
        new = draw(zoo.Data(), prior, fit.params, num_rows=40)
    else:
        import jax
        from numpyro.infer import Predictive

        draw = Predictive(zoo.model.numpyro, guide=zoo.guide.numpyro, num_samples=50, params={})
        new = draw(jax.random.PRNGKey(0), zoo.Data(), prior, fit.params, num_rows=40)
    location = np.asarray(new["location"])
    assert location.shape == (50, 40, 2)
    # 2000 new events lie where the data lie: within 5 standard errors of their mean.
    error = location.reshape(-1, 2).std(0) / np.sqrt(60)
    assert (np.abs(location.reshape(-1, 2).mean(0) - data.location.mean(0)) < 5 * error).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_guide_without_params_says_so(library):
    zoo = lz.get("earthquakes")
    data, _ = zoo.simulate(seed=1, num_rows=5)
    with pytest.raises(lz.UserError, match=r"the guide of earthquakes needs params\.phi"):
        zoo.guide.on(library)(data, zoo.prior(data))
