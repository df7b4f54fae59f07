"""NUTS against posteriors that are known without it: conjugate ones, sums over all assignments, a grid."""

import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import jax
import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from scipy.special import gammaln, logsumexp

import latentzoo as lz
from latentzoo.inference import mcmc
from latentzoo.inference.mcmc import Chains, num_transitions, sample
from latentzoo.inference.registry import Entry
from latentzoo.models.language.ppl import LIBRARIES

each_library = pytest.mark.parametrize("library", LIBRARIES)
each_library_slowly = pytest.mark.parametrize("library", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])


class Problem(NamedTuple):
    zoo: Entry
    data: Any
    prior: Any
    init: lz.Params


def problem(num_rows: int, apart: float = 1.0, **spec: Any) -> Problem:
    """Events of centres that overlap, so that which event is whose stays open; or of centres far apart."""
    zoo = lz.get("earthquakes", **spec)
    rng = np.random.default_rng(0)
    component = np.arange(num_rows) % zoo.spec.num_components
    location = apart * np.array([2.0, -1.0]) * component[:, None] + rng.normal(size=(num_rows, 2))
    data = zoo.Data(location, rng.poisson(4.0 + 4.0 * component).astype(float))
    known = {"noise_variance": 1.5} if zoo.spec.noise == "known" else {}
    prior = zoo.prior(data, loc_variance=4.0, strength_shape=2.5, strength_rate=0.4, **known)
    return Problem(zoo, data, prior, zoo.init(data, prior))


ONE = {"num_components": 1}
SHORT = {"num_draws": 6, "num_warmup": 10, "num_chains": 2}
SIZES = {
    "numpyro": {"num_draws": 1000, "num_warmup": 300, "num_chains": 4},
    "pyro": {"num_draws": 120, "num_warmup": 50, "num_chains": 2},
}


@pytest.fixture(scope="module")
def exact() -> Problem:
    """K = 1 and a known noise: the posterior is a Normal and a Gamma."""
    return problem(8, **ONE)


@pytest.fixture(scope="module")
def runs(exact: Problem) -> Any:
    """The chains of a library on that problem, sampled once."""
    found: dict[str, Chains] = {}

    def run(library: Any) -> Chains:
        if library not in found:
            found[library] = sample(*exact, library=library, seed=3, **SIZES[library])
        return found[library]

    return run


def assert_moments(draws: np.ndarray, mean: Any, deviation: Any = None, errors: float = 4.0) -> None:
    """Mean and standard deviation of every coordinate are the exact ones, within Monte Carlo errors."""
    mean = np.broadcast_to(mean, draws.shape[2:])
    for at in np.ndindex(mean.shape):
        one = draws[(slice(None), slice(None), *at)]
        assert abs(one.mean() - mean[at]) < errors * az.mcse(one), (at, one.mean(), mean[at], az.mcse(one))
        if deviation is not None:
            exact = np.broadcast_to(deviation, mean.shape)[at]
            assert abs(one.std() - exact) < errors * error_of_deviation(one), (at, one.std(), exact)


def error_of_deviation(draws: np.ndarray) -> float:
    """The Monte Carlo error of a standard deviation, which ArviZ 0.23 refuses where numba is installed."""
    squared = (draws - draws.mean()) ** 2
    return np.sqrt(squared.var() / az.ess(squared, method="mean")) / (2.0 * draws.std())


# --- the posterior ----------------------------------------------------------------------------------------------------


@each_library
def test_one_component_has_the_conjugate_posterior(exact: Problem, runs: Any, library: Any) -> None:
    zoo, data, prior, _ = exact
    chains = runs(library)
    precision = 1.0 / prior.loc_variance + len(data.strength) / prior.noise_variance
    mean = (prior.loc_mean / prior.loc_variance + data.location.sum(0) / prior.noise_variance) / precision
    assert_moments(chains.draws["loc"][:, :, 0], mean, precision**-0.5)
    shape, rate = prior.strength_shape + data.strength.sum(), prior.strength_rate + len(data.strength)
    assert_moments(chains.draws["rate"], shape / rate, np.sqrt(shape) / rate)
    # And CAVI, which is exact here, says the same.
    phi = lz.fit(zoo, data, method="cavi", prior=prior, progress=False).params.phi
    np.testing.assert_allclose(phi.loc_mean[0], mean, rtol=1e-9)
    np.testing.assert_allclose(np.exp(phi.rate_log_shape - phi.rate_log_rate), shape / rate, rtol=1e-9)


class Exact(NamedTuple):
    """Every assignment of rows to two components: its probability, and the posterior of all else given it."""

    probability: np.ndarray  # (assignments,)
    shape: np.ndarray  # (assignments, 2)
    rate: np.ndarray
    mean: np.ndarray  # (assignments, 2, 2)
    variance: np.ndarray  # (assignments, 2)

    def means(self, keep: Any = slice(None)) -> dict[str, Any]:
        """Posterior means that no relabelling changes."""
        p = self.probability[keep] / self.probability[keep].sum()
        first = self.shape[keep] / self.rate[keep]
        second = first * (self.shape[keep] + 1.0) / self.rate[keep]
        squared = (self.mean[keep] ** 2).sum(-1) + 2.0 * self.variance[keep]
        return {
            "sum of rates": p @ first.sum(1),
            "sum of squared rates": p @ second.sum(1),
            "product of rates": p @ first.prod(1),
            "sum of centres": np.einsum("z,zkd->d", p, self.mean[keep]),
            "sum of squared centres": p @ squared.sum(1),
            "product of centres": p @ self.mean[keep].prod(1).sum(-1),
        }


def brute_force(data: Any, prior: Any) -> Exact:
    """Sum over all assignments; each has a conjugate posterior, and its marginal likelihood in closed form."""
    rows, x, s = len(data.strength), data.location - prior.loc_mean, data.strength
    assignment = np.array(list(itertools.product(range(2), repeat=rows)))
    member = (assignment[:, :, None] == np.arange(2)).astype(float)  # (Z, N, 2)
    count, strength, place = member.sum(1), np.einsum("znk,n->zk", member, s), np.einsum("znk,nd->zkd", member, x)
    alpha, beta = prior.strength_shape, prior.strength_rate
    shape, rate = alpha + strength, beta + count
    log_p = (gammaln(shape) - gammaln(alpha) + alpha * np.log(beta) - shape * np.log(rate)).sum(1)
    variance = 1.0 / (1.0 / prior.loc_variance + count / prior.noise_variance)
    mean = place * (variance / prior.noise_variance)[..., None]
    log_p += (np.log(variance / prior.loc_variance) + (mean**2).sum(-1) / (2.0 * variance)).sum(1)
    log_p += np.log(prior.weights[assignment]).sum(1)
    return Exact(np.exp(log_p - logsumexp(log_p)), shape, rate, mean + prior.loc_mean, variance)


def invariants(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    loc, rate = draws["loc"], draws["rate"]
    return {
        "sum of rates": rate.sum(2),
        "sum of squared rates": (rate**2).sum(2),
        "product of rates": rate.prod(2),
        "sum of centres": loc.sum(2),
        "sum of squared centres": (loc**2).sum((2, 3)),
        "product of centres": loc.prod(2).sum(-1),
    }


@each_library_slowly
def test_two_components_have_the_posterior_of_all_assignments(library: Any) -> None:
    of = problem(6, num_components=2)
    size = SIZES["numpyro"] if library == "numpyro" else {"num_draws": 500, "num_warmup": 150, "num_chains": 2}
    chains = sample(*of, library=library, seed=1, target_accept=0.9, **size)
    found, exact = invariants(chains.draws), brute_force(of.data, of.prior)
    assert 1.0 / (exact.probability**2).sum() > 8.0  # no few assignments rule: the sum over them matters
    right = exact.means()
    for name, draws in found.items():
        assert_moments(draws, right[name])
    # What these errors would not have forgiven: the assignment fixed at its best, labels that are chosen with other
    # weights, and a log density without the Jacobian of the rates, which is that of another prior.
    best = exact.means([int(exact.probability.argmax())])
    weighted = brute_force(of.data, of.prior._replace(weights=np.array([0.9, 0.1]))).means()
    no_jacobian = brute_force(of.data, of.prior._replace(strength_shape=of.prior.strength_shape - 1.0)).means()
    for wrong in (best, weighted, no_jacobian):
        off = {
            name: np.abs(wrong[name] - right[name]).max() / az.mcse(found[name].reshape(*draws.shape[:2], -1)[..., 0])
            for name in right
        }
        assert max(off.values()) > 8.0, off


def log_density(of: Problem, draws: dict[str, np.ndarray]) -> np.ndarray:
    """log p(data, loc, rate) by scipy, the components summed out, plus the Jacobian of rate = exp(z)."""
    data, prior = of.data, of.prior
    loc, rate = draws["loc"], draws["rate"]
    rows = stats.norm(loc[..., None, :, :], np.sqrt(prior.noise_variance)).logpdf(data.location[:, None]).sum(-1)
    rows += stats.poisson(rate[..., None, :]).logpmf(data.strength[:, None])
    total = logsumexp(rows + np.log(prior.weights), axis=-1).sum(-1)
    total += stats.norm(prior.loc_mean, np.sqrt(prior.loc_variance)).logpdf(loc).sum((-1, -2))
    total += stats.gamma(prior.strength_shape, scale=1.0 / prior.strength_rate).logpdf(rate).sum(-1)
    return total + np.log(rate).sum(-1)


@each_library
def test_lp_is_the_log_joint_density(library: Any) -> None:
    of = problem(6, num_components=2)
    chains = sample(*of, library=library, **(SIZES["numpyro"] if library == "numpyro" else SHORT), target_accept=0.9)
    np.testing.assert_allclose(chains.stats["lp"], log_density(of, chains.draws), rtol=1e-11)


def test_every_latent_variable_is_drawn() -> None:
    of = problem(20, apart=8.0, num_components=2, weights="dirichlet", noise="per_component")
    chains = sample(*of, num_draws=200, num_warmup=200)
    shapes = {site: draws.shape[2:] for site, draws in chains.draws.items()}
    assert shapes == {"weights": (2,), "loc": (2, 2), "rate": (2,), "noise_variance": (2,)}
    np.testing.assert_allclose(chains.draws["weights"].sum(-1), 1.0, rtol=1e-12)
    assert (chains.draws["noise_variance"] > 0.0).all()
    # All chains began in one labelling, and centres this far apart leave it as it is: they agree site by site.
    assert all((az.rhat({site: draws})[site] < 1.05).all() for site, draws in chains.draws.items())


def toy(name: str, **spec: Any) -> Entry:
    file = Path(__file__).parents[1] / "contract" / f"{name}.py"
    module_spec = importlib.util.spec_from_file_location(name, file)
    assert module_spec
    assert module_spec.loader
    room = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(room)
    return Entry(name, room, room, room, room.Spec(**spec))


@each_library
def test_sites_of_rows_and_point_parameters(library: Any) -> None:
    """A latent z for each image, a decoder that stays where it is, no discrete site: the posterior by a grid."""
    zoo = toy("toy_vae")
    data, _ = zoo.simulate(seed=2, num_rows=3)
    prior = zoo.prior(data)
    init = zoo.init(data, prior, seed=4)
    chains = sample(zoo, data, prior, init, library=library, seed=1, **SIZES[library])
    axis = np.linspace(-8.0, 8.0, 161)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    hidden, out = init.theta.decoder["hidden"], init.theta.decoder["out"]
    logits = np.tanh(z @ hidden.weight + hidden.bias) @ out.weight + out.bias
    log_p = data.x @ logits.T - np.logaddexp(0.0, logits).sum(1) + stats.norm(0.0, prior.scale).logpdf(z).sum(1)
    weight = np.exp(log_p - logsumexp(log_p, axis=1, keepdims=True))
    mean = weight @ z
    assert np.abs(mean).max() > 0.3  # the data say something
    assert_moments(chains.draws["z"], mean, np.sqrt(weight @ z**2 - mean**2))


# --- what is told about it --------------------------------------------------------------------------------------------


@each_library
def test_shapes_and_statistics(runs: Any, library: Any) -> None:
    chains, size = runs(library), SIZES[library]
    lead = (size["num_chains"], size["num_draws"])
    assert {site: draws.shape for site, draws in chains.draws.items()} == {"loc": (*lead, 1, 2), "rate": (*lead, 1)}
    assert all(draws.dtype == np.float64 for draws in chains.draws.values())
    kinds = {"lp": "f", "diverging": "b", "n_steps": "i", "tree_depth": "i", "acceptance_rate": "f", "step_size": "f"}
    assert {name: stat.dtype.kind for name, stat in chains.stats.items()} == kinds
    assert all(stat.shape == lead for stat in chains.stats.values())
    n_steps, depth = chains.stats["n_steps"], chains.stats["tree_depth"]
    assert (2 ** (depth - 1) <= n_steps).all()
    assert (n_steps < 2**depth).all()
    rate = chains.stats["acceptance_rate"]
    assert (rate >= 0.0).all()
    assert (rate <= 1.0).all()
    assert 0.6 < rate.mean() < 0.97  # adapted to 0.8
    assert rate.std() > 0.01  # of each transition, no running mean
    assert (np.ptp(chains.stats["step_size"], axis=1) == 0.0).all()  # the warm-up is over
    assert not chains.stats["diverging"].any()
    # Every transition of the warm-up takes a step, and every chain has a gradient to start from.
    warmup = size["num_chains"] * (size["num_warmup"] + 1)
    assert chains.num_gradients >= n_steps.sum() + warmup
    assert chains.reason == ""
    assert chains.seconds > 0.0
    assert (chains.compile_seconds > 0.0) == (library == "numpyro")


@each_library
def test_gradients_are_counted_where_they_are_evaluated(
    exact: Problem, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pyro's are counted again at autograd itself; NumPyro's warm-up alone is what longer draws leave the same."""
    if library == "pyro":
        from pyro.ops import integrator

        calls = []
        grad = integrator.grad
        monkeypatch.setattr(integrator, "grad", lambda *args: calls.append(1) or grad(*args))
        chains = sample(*exact, library=library, **SHORT)
        assert chains.num_gradients == len(calls)
    else:
        short, longer = (sample(*exact, **{**SIZES["numpyro"], "num_draws": draws}) for draws in (10, 70))
        before = [chains.num_gradients - chains.stats["n_steps"].sum() for chains in (short, longer)]
        assert before[0] == before[1]
        np.testing.assert_array_equal(longer.stats["lp"][:, :10], short.stats["lp"])


@pytest.mark.parametrize("library", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_divergences_are_told(exact: Problem, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A posterior a thousand times as narrow as the first step, and no warm-up to learn it: all diverge."""
    from pyro.infer import NUTS

    monkeypatch.setattr(NUTS, "_find_reasonable_step_size", lambda self, z: 1.0)  # where NumPyro begins, too
    narrow = exact.prior._replace(noise_variance=np.array(1e-6))
    chains = sample(exact.zoo, exact.data, narrow, exact.init, library=library, **{**SHORT, "num_warmup": 1})
    assert chains.stats["diverging"].all()
    assert (chains.stats["n_steps"] == 1).all()
    assert (chains.stats["tree_depth"] == 1).all()
    assert (chains.stats["acceptance_rate"] == 0.0).all()
    assert (np.ptp(chains.draws["rate"], axis=1) == 0.0).all()  # nothing was accepted


@each_library
def test_progress_is_reported(exact: Problem, library: Any) -> None:
    told: list[tuple[int, str]] = []
    sample(*exact, library=library, **SHORT, report=lambda done, text: told.append((done, text)))
    done = [number for number, _ in told]
    assert done == sorted(set(done))
    assert done[-1] == num_transitions(library, **SHORT) == 16 * (2 if library == "pyro" else 1)
    assert told[0][1] == "warm-up"
    assert re.fullmatch(r"\d+ diverging", told[-1][1])


# --- the same again ---------------------------------------------------------------------------------------------------


@each_library
def test_the_same_seed_gives_the_same_bits(exact: Problem, library: Any) -> None:
    one, again, other = (sample(*exact, library=library, seed=seed, **SHORT) for seed in (5, 5, 6))
    for name in ("draws", "stats"):
        for key, array in getattr(one, name).items():
            np.testing.assert_array_equal(getattr(again, name)[key], array)
    assert one.num_gradients == again.num_gradients
    assert (one.draws["loc"] != other.draws["loc"]).all()
    assert (one.draws["loc"][0] != one.draws["loc"][1]).all()  # nor do the chains share their random numbers


def test_a_second_call_compiles_nothing(exact: Problem, runs: Any) -> None:
    first = runs("numpyro")
    second = sample(*exact, **{**SIZES["numpyro"], "num_draws": 20})
    assert second.compile_seconds < 0.1 * first.compile_seconds


class Interrupted(Exception):
    """What a user's callback raises."""


@each_library
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_state_of_the_user_is_left_alone(exact: Problem, library: Any, interrupted: bool) -> None:
    pyro.param("mine", torch.tensor(1.5))
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()

    def report(done: int, text: str) -> None:
        if interrupted:
            raise Interrupted

    if interrupted:
        with pytest.raises(Interrupted):
            sample(*exact, library=library, **SHORT, report=report)
    else:
        sample(*exact, library=library, **SHORT)
    assert set(pyro.get_param_store()) == {"mine"}
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_default_dtype() == before[1]
    assert torch.get_num_threads() == before[2]
    assert not jax.config.jax_enable_x64
    with pytest.raises(ValueError, match="scale"):  # arguments are validated again
        torch.distributions.Normal(0.0, -1.0)


def test_importing_loads_no_library() -> None:
    libraries = "{'torch', 'jax', 'pyro', 'numpyro', 'funsor'}"
    code = f"import sys, latentzoo.inference.mcmc; sys.exit(bool({libraries} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# --- limits and mistakes ----------------------------------------------------------------------------------------------


class Ticks:
    """A stopwatch on which every visit takes a second."""

    running = compiling = 0.0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.running += 1.0


@each_library
def test_max_seconds_cuts(exact: Problem, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcmc, "Stopwatch", Ticks)
    whole = sample(*exact, library=library, **{**SHORT, "num_draws": 20})
    # A second for the starts; then, in Pyro, one for each transition, in NumPyro for blocks of 1, 2, 4, ...
    limit = 18.0 if library == "pyro" else 5.0
    cut = sample(*exact, library=library, **{**SHORT, "num_draws": 20}, max_seconds=limit)
    taken = cut.draws["loc"].shape[1]
    assert 4 <= taken < 20
    assert cut.seconds == limit
    assert cut.reason == f"max_seconds = {limit:g} came first: {taken} of 20 draws"
    if library == "pyro":
        assert taken == 7
    for site in ("loc", "rate"):
        np.testing.assert_array_equal(cut.draws[site], whole.draws[site][:, :taken])
    for name, stat in cut.stats.items():
        np.testing.assert_array_equal(stat, whole.stats[name][:, :taken])


MISTAKES = {
    "library": ({"library": "stan"}, "no library 'stan'; there is: numpyro, pyro"),
    "seed": ({"seed": -1}, "seed is -1: it must be a whole number"),
    "num_draws": ({"num_draws": 3}, "num_draws is 3: it must be a whole number, at least 4"),
    "num_warmup": ({"num_warmup": 0}, "num_warmup is 0: it must be a whole number, at least 1"),
    "num_chains": ({"num_chains": 2.0}, "num_chains is 2.0: it must be a whole number"),
    "one": ({"target_accept": 1.0}, "target_accept is 1.0: it must be a number between 0 and 1"),
    "nan": ({"target_accept": float("nan")}, "target_accept is nan"),
    "text": ({"target_accept": "high"}, "target_accept is 'high'"),
    "max_seconds": ({"max_seconds": 0}, "max_seconds is 0: it must be a number, above 0"),
    "early": ({"max_seconds": 1e-9}, "max_seconds = 1e-09 came before the end of the warm-up: 1 of 10 transitions"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(exact: Problem, mistake: str) -> None:
    wrong, words = MISTAKES[mistake]
    with pytest.raises(lz.UserError, match=re.escape(words)) as caught:
        sample(*exact, **{**SHORT, **wrong})
    assert "\n" not in str(caught.value)


def test_too_few_draws_in_max_seconds(exact: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcmc, "Stopwatch", Ticks)
    with pytest.raises(lz.UserError, match="max_seconds = 8 came before 4 draws of each chain: there are 2"):
        sample(*exact, library="pyro", num_warmup=5, num_chains=1, max_seconds=8)


@each_library
def test_a_start_without_a_density_is_a_mistake(exact: Problem, library: Any) -> None:
    phi = exact.init.phi._replace(loc_mean=np.full((1, 2), 1e200), component_logits=np.zeros((8, 1)))
    far = exact.init._replace(phi=phi)
    with pytest.raises(lz.UserError, match="the log density is -inf where chain 0 starts"):
        sample(*exact[:3], far, library=library, **SHORT)


@each_library
def test_a_model_without_continuous_latent_variables(library: Any) -> None:
    zoo = toy("toy_em_mixture")
    data, _ = zoo.simulate(seed=0, num_rows=5)
    prior = zoo.prior(data)
    with pytest.raises(lz.UserError, match="toy_em_mixture has no continuous latent variables"):
        sample(zoo, data, prior, zoo.init(data, prior), library=library, **SHORT)
