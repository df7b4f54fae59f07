"""Gradient estimators against exact expectations: Gauss-Hermite nodes as noise, and all values of discrete sites."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import softmax

import latentzoo as lz
from latentzoo.inference import estimators, particles
from latentzoo.inference.automatic import Pair, backend
from latentzoo.inference.estimators import (
    Controlled,
    DoublyReparametrised,
    Enumerated,
    ImportanceWeighted,
    Path,
    Score,
    Total,
)
from latentzoo.models.language.contract import Params, leaves, take_rows
from latentzoo.models.language.ppl import LIBRARIES, handle

M, S = 0.7, 0.6
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(30)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
EXACT = {"m": -M, "log_s": 1 - S**2}  # of -KL(Normal(m, s^2) || Normal(0, 1)), a known integral


def normals(library: str) -> Pair:
    """p = Normal(0, 1), q = Normal(m, s^2)."""
    ppl = handle(library)

    def model() -> None:
        zero = ppl.array(np.array(0.0))
        ppl.sample("z", ppl.dist.Normal(zero, zero + 1))

    def guide() -> None:
        loc, log_scale = ppl.param("m", np.array(0.0)), ppl.param("log_s", np.array(0.0))
        ppl.sample("z", ppl.dist.Normal(loc, ppl.xp.exp(log_scale)))

    return Pair(model, guide, (), {}, 0)


PARAMS = {"m": np.array(M), "log_s": np.array(np.log(S))}


def at_nodes(library: str, estimator: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    noise = {"z": NODES[:, None]}
    return estimators.gradients(library, estimator, normals(library), PARAMS, num_draws=len(NODES), noise=noise)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [Total(), Path(), Controlled(0.4), Score(), Score("constant", constant=-1.3)])
def test_expectations_are_the_gradient(library: str, estimator: Any) -> None:
    values, found = at_nodes(library, estimator)
    assert WEIGHTS @ values == pytest.approx(-(M**2 + S**2 - 1) / 2 + np.log(S), abs=1e-10)
    for name, exact in EXACT.items():
        assert WEIGHTS @ found[name] == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("estimator", "sd"), [(Total(), S), (Path(), 1 / S - S), (Controlled(S**2), 0.0)])
def test_variances_by_the_mean(library: str, estimator: Any, sd: float) -> None:
    """Of total + c * score it is (s - c / s)^2: s^2 at c = 0, (1/s - s)^2 at c = 1, none at c = s^2."""
    _, found = at_nodes(library, estimator)
    assert WEIGHTS @ (found["m"] - EXACT["m"]) ** 2 == pytest.approx(sd**2, abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_score_function_is_the_bare_one(library: str) -> None:
    """(f - b) * score, without the derivative of -log q: E (f * score)^2 by nodes, f and the score typed in."""
    _, found = at_nodes(library, Score())
    z = M + S * NODES
    f = -0.5 * z**2 + 0.5 * NODES**2 + np.log(S)
    for name, score in {"m": NODES / S, "log_s": NODES**2 - 1}.items():
        assert found[name] == pytest.approx(f * score, abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_path_of_more_variance_than_the_total(library: str) -> None:
    """Below s = 1 / sqrt(2), here at 0.6, dropping the score is worse."""
    assert S**2 < 0.5
    total, path = (at_nodes(library, each)[1]["m"] for each in (Total(), Path()))
    assert WEIGHTS @ path**2 > WEIGHTS @ total**2


def test_the_coefficient_is_estimated_on_other_draws() -> None:
    """With c = f(draws) taken on the draws that it multiplies, the estimate would be biased."""
    _, found = estimators.gradients(
        "numpyro", Controlled(num_separate=200), normals("numpyro"), PARAMS, num_draws=2000, seed=3
    )
    for name, exact in EXACT.items():
        assert abs(found[name].mean() - exact) < 5 * found[name].std() / np.sqrt(2000)
    # Variances by m and log s: (s - c / s)^2 and m^2 s^2 + 2 (s^2 - c)^2, least at c = s^2.
    assert found["m"].var() < 0.01 * S**2
    assert found["log_s"].var() == pytest.approx((M * S) ** 2, rel=0.15)


# --- the exact posterior ----------------------------------------------------------------------------------------------


def posterior_of(rows: int) -> tuple[Any, Any, Any, Params]:
    """Probabilistic PCA, every q(latent[n]) written out at its posterior."""
    zoo = lz.get("probabilistic_pca", num_latents=2)
    data, _ = zoo.simulate(seed=1, num_rows=rows)
    prior = zoo.prior(data)
    params = zoo.init(data, prior, seed=2)
    return zoo, data, prior, zoo.closed_form.local_optimum(params, data, prior, zoo.spec)


def pair_of(zoo: Any, library: str, data: Any, prior: Any, params: Params, **kwargs: Any) -> Pair:
    return Pair(zoo.model.on(library), zoo.guide.on(library), (data, prior, params), kwargs, 1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_path_is_zero_at_the_posterior_in_every_draw(library: str) -> None:
    zoo, data, prior, params = posterior_of(4)
    pair = pair_of(zoo, library, data, prior, params)
    _, path = estimators.gradients(library, "path", pair, leaves(params), rows=("rows",), num_draws=5)
    _, total = estimators.gradients(library, "total", pair, leaves(params), rows=("rows",), num_draws=5)
    for name in ("phi.latent_mean", "phi.latent_raw_scale"):
        assert np.abs(path[name]).max() < 1e-12
        assert np.abs(total[name]).max() > 0.1
    # Point parameters have no path: theirs is the gradient of log p(x), which every draw gives in full.
    stats = zoo.closed_form.e_step(params, data, prior, zoo.spec)
    exact = leaves(zoo.closed_form.elbo_gradient(stats, params, prior, zoo.spec))
    for name, derived in exact.items():
        assert path[name].mean(0) == pytest.approx(total[name].mean(0), abs=1e-10)
        assert derived.shape == path[name].shape[1:]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [ImportanceWeighted(), DoublyReparametrised()])
def test_l_k_at_the_posterior_is_the_evidence_in_every_draw(library: str, estimator: Any) -> None:
    zoo, data, prior, params = posterior_of(4)
    pair = pair_of(zoo, library, data, prior, params)
    values, found = estimators.gradients(
        library, estimator, pair, leaves(params), rows=("rows",), num_draws=3, num_particles=4
    )
    assert values == pytest.approx(zoo.elbo(params, data, prior), abs=1e-10)
    if isinstance(estimator, DoublyReparametrised):
        assert np.abs(found["phi.latent_mean"]).max() < 1e-12


# --- importance-weighted ----------------------------------------------------------------------------------------------


FINE, FINE_WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
FINE_WEIGHTS = FINE_WEIGHTS / FINE_WEIGHTS.sum()


def bound_of_two(m: complex, log_s: complex) -> complex:
    """E L_2 of the normals, by the rule over both draws."""
    z = m + np.exp(log_s) * FINE
    w = np.exp(-0.5 * z**2 + 0.5 * FINE**2 + log_s)
    return FINE_WEIGHTS @ np.log((w[:, None] + w) / 2) @ FINE_WEIGHTS


@pytest.mark.parametrize("estimator", [ImportanceWeighted(), DoublyReparametrised()])
def test_expectations_of_two_particles_are_the_gradient_of_l_2(estimator: Any) -> None:
    pairs = np.array(list(itertools.product(FINE, FINE)))
    weights = np.outer(FINE_WEIGHTS, FINE_WEIGHTS).ravel()
    options: dict[str, Any] = {"num_particles": 2, "num_draws": len(pairs), "noise": {"z": pairs}}
    values, found = estimators.gradients("numpyro", estimator, normals("numpyro"), PARAMS, **options)
    m, log_s, step = complex(M), complex(np.log(S)), 1e-30j
    assert weights @ values == pytest.approx(bound_of_two(m, log_s).real, abs=1e-12)
    by_complex_step = {"m": bound_of_two(m + step, log_s), "log_s": bound_of_two(m, log_s + step)}
    for name, moved in by_complex_step.items():
        assert weights @ found[name] == pytest.approx(moved.imag / 1e-30, abs=1e-10)


@pytest.mark.parametrize(
    ("library", "estimator"),
    [
        *(("pyro", each) for each in ("iwae", "dreg", "rws", "score-leave-one-out", "path", "total")),
        *(("numpyro", each) for each in ("dreg", "rws")),  # a compilation each; both libraries agree at any noise
    ],
)
def test_minibatches_average_to_all_rows(library: str, estimator: str) -> None:
    """At the same noise; each row has weights of its own, and the factor of a minibatch stays outside of them."""
    zoo, data, prior, _ = posterior_of(6)
    params = zoo.init(data, prior, seed=2)
    noise = np.random.default_rng(0).normal(size=(1, 3, 6, 2))
    wide = particles.home(library).widened(zoo.guide.on(library), 1.3)

    def found(rows: slice, **kwargs: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        part = take_rows(data, rows)
        pair = pair_of(zoo, library, part, prior, params, **kwargs)._replace(guide=wide)
        given = {"latent": noise[:, :, rows]}
        return estimators.gradients(
            library, estimator, pair, leaves(params), rows=("rows",), num_particles=3, num_draws=1, noise=given
        )

    whole, parts = found(slice(None)), [found(slice(start, start + 2), total_rows=6) for start in (0, 2, 4)]
    assert np.mean([value for value, _ in parts]) == pytest.approx(whole[0][0], rel=1e-10)
    for name, exact in whole[1].items():
        assert np.mean([gradient[name] for _, gradient in parts], axis=0) == pytest.approx(exact, rel=1e-10, abs=1e-10)
    assert np.abs(whole[1]["theta.weight"]).max() > 0.1


# --- discrete sites: every value --------------------------------------------------------------------------------------


PRIOR = np.array([0.1, 0.4, -0.3])
TABLE = np.array([[0.3, -1.0, 0.8], [1.2, 0.1, -0.4], [-0.7, 0.9, 0.2]])
LOGITS = np.array([[0.2, -0.5, 1.0], [0.0, 0.7, -0.2], [1.1, 0.3, 0.4]])
CATEGORIES = {"logits": LOGITS, "scale": np.array(0.8)}
COST = TABLE - 0.5 * TABLE**2  # of each category of each row
Q = softmax(LOGITS, axis=1)
F = np.log(softmax(PRIOR)) + 0.8 * COST - np.log(Q)  # log p(x, z) - log q(z), of each category of each row
EXACT_LOGITS = Q * (F - (Q * F).sum(1, keepdims=True))  # of the sum of Q F


def categories(library: str) -> Pair:
    """Three rows, each of one of three categories seen through a table; the guide has logits for each."""
    ppl = handle(library)

    def model() -> None:
        scale = ppl.param("scale", np.array(1.0))
        with ppl.plate("rows", 3):
            z = ppl.sample("z", ppl.dist.Categorical(logits=ppl.array(PRIOR)))
            seen = (ppl.nn.one_hot(z, 3) * ppl.array(TABLE)).sum(-1)
            ppl.factor("x", scale * (seen - 0.5 * seen**2))

    def guide() -> None:
        logits = ppl.param("logits", np.zeros((3, 3)))
        with ppl.plate("rows", 3):
            ppl.sample("z", ppl.dist.Categorical(logits=logits))

    return Pair(model, guide, (), {}, 1)


def over_all_values(library: str, estimator: Any, num_particles: int, row: int) -> dict[str, np.ndarray]:
    """Return the exact expectation of an estimate: every value of one row in every particle, the others held."""
    auto, home = backend(library), particles.home(library)
    plan = particles.Plan(categories(library), num_particles, ("rows",), frozenset({"scale"}))
    random = () if library == "pyro" else (jax.random.PRNGKey(0),)

    def estimate(params: Any, z: Any) -> Any:
        given = home.Particles(plan, params, *random)
        given.draw = lambda: given.at({"z": z})._replace(reparametrised=frozenset())
        return estimator(given)

    total = {name: np.zeros(np.shape(leaf)) for name, leaf in CATEGORIES.items()}
    with auto.precision():
        gradient = gradient_of(library, estimate)
        for values in itertools.product(range(3), repeat=num_particles):
            z = np.zeros((num_particles, 3), dtype=int)
            z[:, row] = values
            for name, leaf in gradient(CATEGORIES, auto.ppl.array(z)).items():
                total[name] += Q[row, list(values)].prod() * np.asarray(leaf)
    return total


def gradient_of(library: str, function: Any) -> Any:
    """Return the gradient of a function (params, z), which is compiled once."""
    if library == "pyro":
        return lambda params, z: backend("pyro").value_and_gradient(lambda leaves: function(leaves, z), params)[1]
    return jax.jit(jax.grad(function))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("estimator", "num_particles"),
    [(Total(), 1), (Score(), 1), (Score("constant", constant=0.7), 1), (Score("leave-one-out"), 2)],
)
def test_the_score_function_is_exact_over_all_values(library: str, estimator: Any, num_particles: int) -> None:
    """Also for `Total`, whose discrete sites have no path: NumPyro's own Trace_ELBO leaves their score out."""
    row = 1
    found = over_all_values(library, estimator, num_particles, row)
    assert found["logits"][row] == pytest.approx(EXACT_LOGITS[row], abs=1e-10)
    assert found["scale"] == pytest.approx(Q[row] @ COST[row] + COST[0, 0] + COST[2, 0], abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_enumerated_is_exact(library: str) -> None:
    values, found = estimators.gradients(library, Enumerated(), categories(library), CATEGORIES, num_draws=1)
    assert values[0] == pytest.approx((Q * F).sum(), abs=1e-10)
    assert found["logits"][0] == pytest.approx(EXACT_LOGITS, abs=1e-10)
    assert found["scale"][0] == pytest.approx((Q * COST).sum(), abs=1e-10)
