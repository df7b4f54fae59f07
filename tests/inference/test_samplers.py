"""The samplers: their distributions, their gradients, their extremes, and the same in NumPy, JAX and torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro.distributions as pyro_dist
import pytest
import torch
from numpyro.infer import SVI, Trace_ELBO
from scipy import integrate, special, stats
from scipy.special import expit

from latentzoo.inference import samplers
from latentzoo.models.language.categoricals import ONE_HOT
from latentzoo.models.language.errors import UserError

NUM_DRAWS = 20_000
LEVEL = 0.01  # of all goodness-of-fit tests together
INF = np.inf
LOGITS = np.log([0.1, 0.2, 0.3, 0.4]) + 5.0


class Case(NamedTuple):
    """A sampler at some parameters, and SciPy's distribution of its draws, or of what `seen` makes of them."""

    sampler: Callable[..., Any]
    parameters: tuple[float, ...]
    truth: Any
    seen: Callable[[np.ndarray], np.ndarray] = np.asarray


def truncated(loc: float, scale: float, low: float, high: float) -> Case:
    ends = (low - loc) / scale, (high - loc) / scale
    return Case(samplers.truncated_normal, (loc, scale, low, high), stats.truncnorm(*ends, loc, scale))


CASES = {
    "exponential": Case(samplers.exponential, (2.5,), stats.expon(scale=1 / 2.5)),
    "gumbel": Case(samplers.gumbel, (), stats.gumbel_r()),
    "kumaraswamy": Case(samplers.kumaraswamy, (0.4, 2.5), stats.beta(1.0, 2.5), lambda x: x**0.4),
    "kumaraswamy, steep": Case(samplers.kumaraswamy, (30.0, 0.2), stats.beta(1.0, 0.2), lambda x: x**30.0),
    "truncated about loc": truncated(0.3, 1.5, -1.0, 2.0),
    "truncated nowhere": truncated(1.0, 2.0, -INF, INF),
    "half normal": truncated(0.0, 1.0, 0.0, INF),
    "right tail": truncated(-1.0, 0.5, 4.0, INF),
    "left tail": truncated(1.0, 0.1, -INF, -2.0),
    "piece of a tail": truncated(0.0, 1.0, 6.0, 6.1),
    "mostly one side": truncated(0.0, 1.0, -0.1, 7.0),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
NUM_TESTS = len(CASES) + 5


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def p_value(case: Case, parameters: tuple[float, ...]) -> float:
    draws = case.sampler(noise(NUM_DRAWS), *parameters)
    return float(stats.kstest(case.seen(draws), case.truth.cdf).pvalue)


# --- distributions --------------------------------------------------------------------------------------------------


@every_case
def test_draws_have_the_distribution(case: Case) -> None:
    assert p_value(case, case.parameters) > LEVEL / NUM_TESTS


@pytest.mark.parametrize("name", ["exponential", "kumaraswamy", "truncated about loc", "right tail"])
def test_a_wrong_parameter_shows(name: str) -> None:
    """The power of the test above: the last parameter that is finite, off by a tenth."""
    case = CASES[name]
    which = int(np.flatnonzero(np.isfinite(case.parameters))[-1])
    wrong = tuple(each * 1.1 if index == which else each for index, each in enumerate(case.parameters))
    assert p_value(case, wrong) < LEVEL / NUM_TESTS


@every_case
def test_draws_are_quantiles(case: Case) -> None:
    """Every sampler of one number is the inverse of its distribution function, to rounding of SciPy's."""
    u = np.linspace(0.001, 0.999, 200)
    draws = case.seen(case.sampler(u, *case.parameters))
    np.testing.assert_allclose(draws, case.truth.ppf(u), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
def test_far_tails_are_exponential(distance: float) -> None:
    """Beyond a distance c, excesses times c have a distribution function within 1 / c^2 of an exponential's."""
    u = np.linspace(0.01, 0.99, 50)
    for side in (-1.0, 1.0):
        low, high = (0.0, INF) if side > 0.0 else (-INF, 0.0)
        draws = samplers.truncated_normal(u, -side * distance, 1.0, low, high)
        tail = u if side > 0.0 else 1.0 - u
        np.testing.assert_allclose(side * draws * distance, -np.log1p(-tail), rtol=4.0 / distance**2 + 1e-11)


def test_scaled_tails() -> None:
    """Against SciPy's erfcx, also where JAX's is 0."""
    x = np.concatenate([np.linspace(0.0, 40.0, 1001), [1e6, 1e12, INF]])
    np.testing.assert_allclose(samplers._scaled_tail(x), special.erfcx(x / np.sqrt(2.0)), rtol=1e-14)


@pytest.mark.parametrize("sampler", ["max", "straight through", "soft"])
def test_categories_have_their_probabilities(sampler: str) -> None:
    u = noise(NUM_DRAWS, 4, seed=1)
    if sampler == "max":
        drawn = samplers.gumbel_max(u, LOGITS)
        assert drawn.shape == (NUM_DRAWS,)
    else:
        vectors = {"straight through": samplers.straight_through, "soft": samplers.gumbel_softmax}[sampler](
            u, LOGITS, 0.3
        )
        assert vectors.shape == u.shape
        drawn = vectors.argmax(-1)  # the largest entry of a relaxed draw is the draw that it relaxes
    counts, expected = np.bincount(drawn, minlength=4), NUM_DRAWS * np.array([0.1, 0.2, 0.3, 0.4])
    assert stats.chisquare(counts, expected).pvalue > LEVEL / NUM_TESTS
    assert stats.chisquare(counts, expected[::-1]).pvalue < LEVEL / NUM_TESTS


def test_relaxed_draws_of_two_categories_are_logistic() -> None:
    """The difference of two Gumbel draws is logistic, so that of two logits at a temperature is, too."""
    logits, temperature = np.array([0.3, -0.4]), 0.7
    draws = samplers.gumbel_softmax(noise(NUM_DRAWS, 2, seed=2), logits, temperature)
    gaps = np.log(draws[:, 0]) - np.log(draws[:, 1])
    truth = stats.logistic((logits[0] - logits[1]) / temperature, 1.0 / temperature)
    assert stats.kstest(gaps, truth.cdf).pvalue > LEVEL / NUM_TESTS


def test_dirichlets_of_small_shape_in_logarithms() -> None:
    """Draws of Beta(0.01, 0.02), of which one in three is 0 as a number: log x / (1 - x) against SciPy's Gammas."""
    shapes = np.array([0.01, 0.02])
    rng = np.random.default_rng(3)
    plus_one = np.log(rng.gamma(shapes + 1.0, size=(NUM_DRAWS, 2)))
    log_gammas = samplers.boosted_log_gamma(noise(NUM_DRAWS, 2, seed=4), plus_one, shapes)
    for column, shape in zip(log_gammas.T, shapes, strict=True):
        assert stats.kstest(column, stats.loggamma(shape).cdf).pvalue > LEVEL / NUM_TESTS
    log_draws = samplers.dirichlet_from_log_gammas(log_gammas)
    np.testing.assert_allclose(np.logaddexp(*log_draws.T), 0.0, atol=1e-12)
    assert np.isfinite(log_draws).all()
    assert (np.exp(log_draws) == 0.0).any()
    assert (log_draws[:, 0] > np.log(0.5)).mean() == pytest.approx(stats.beta(0.01, 0.02).sf(0.5), abs=0.015)


# --- the same in every library --------------------------------------------------------------------------------------

RELAXED = {
    "gumbel_max": (samplers.gumbel_max, (LOGITS,)),
    "gumbel_softmax": (samplers.gumbel_softmax, (LOGITS, 0.4)),
    "straight_through": (samplers.straight_through, (LOGITS, 0.4)),
    "boosted_log_gamma": (samplers.boosted_log_gamma, (0.3, 0.01)),
}


def test_the_libraries_agree() -> None:
    u = noise(50, 4, seed=5)
    cases = [(each.sampler, each.parameters) for each in CASES.values()] + list(RELAXED.values())
    expected = [sampler(u, *parameters) for sampler, parameters in cases]
    in_torch = [sampler(torch.from_numpy(u), *parameters) for sampler, parameters in cases]
    with jax.enable_x64(True):
        in_jax = jax.jit(lambda u: [sampler(u, *parameters) for sampler, parameters in cases])(jnp.asarray(u))
    for found, also, there in zip(in_torch, in_jax, expected, strict=True):
        assert torch.is_tensor(found)
        np.testing.assert_allclose(found.numpy(), there, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(also, there, rtol=1e-12, atol=1e-12)


# --- gradients ------------------------------------------------------------------------------------------------------


class Quadrature(NamedTuple):
    """Nodes and weights for the mean over uniform noise, also of what is singular at 0 or 1 (tanh-sinh)."""

    nodes: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, num: int) -> "Quadrature":
        t, step = np.linspace(-3.4, 3.4, num, retstep=True)
        half = np.pi * np.sinh(t)
        return cls(expit(half), step * np.pi * np.cosh(t) * expit(half) * expit(-half))


RULE = Quadrature.of(201)


def gradients(mean: Callable[..., Any], parameters: tuple[Any, ...]) -> list[list[np.ndarray]]:
    """The gradient of a function of the parameters and a converter of arrays, by torch and by JAX."""
    leaves = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in parameters]
    by_torch = torch.autograd.grad(mean(torch.from_numpy, *leaves), leaves)
    with jax.enable_x64(True):
        every = tuple(range(len(parameters)))
        by_jax = jax.jit(jax.grad(lambda *each: mean(jnp.asarray, *each), every))(*map(jnp.asarray, parameters))
        return [[each.numpy() for each in by_torch], [np.asarray(each) for each in by_jax]]


def expectation(sampler: Callable[..., Any], power: float) -> Callable[..., Any]:
    def mean(array: Callable[[np.ndarray], Any], *parameters: Any) -> Any:
        return (array(RULE.weights) * sampler(array(RULE.nodes), *parameters) ** power).sum()

    return mean


def truth(moment: Callable[..., Any], parameters: tuple[float, ...]) -> Any:
    with jax.enable_x64(True):
        every = tuple(range(len(parameters)))
        return [np.asarray(each) for each in jax.grad(moment, every)(*map(jnp.asarray, parameters))]


def truncated_mean(loc: Any, scale: Any, low: Any, high: Any) -> Any:
    """The mean of a truncated normal (Johnson, Kotz & Balakrishnan, 1994, 13.134)."""
    norm, ends = jax.scipy.stats.norm, ((low - loc) / scale, (high - loc) / scale)
    return loc + scale * (norm.pdf(ends[0]) - norm.pdf(ends[1])) / (norm.cdf(ends[1]) - norm.cdf(ends[0]))


@pytest.mark.parametrize(
    ("sampler", "power", "parameters", "moment"),
    [
        (samplers.exponential, 2, (1.7,), lambda rate: 2.0 / rate**2),
        (samplers.kumaraswamy, 3, (1.4, 2.5), lambda a, b: b * jnp.exp(jax.scipy.special.betaln(1.0 + 3.0 / a, b))),
        (samplers.truncated_normal, 1, (0.3, 1.5, -1.0, 2.0), truncated_mean),
        (samplers.truncated_normal, 1, (0.3, 1.5, 1.0, 3.0), truncated_mean),
        (samplers.truncated_normal, 1, (0.3, 1.5, -4.0, 0.1), truncated_mean),
    ],
)
def test_gradients_of_expectations_are_exact(
    sampler: Callable[..., Any], power: int, parameters: tuple[float, ...], moment: Callable[..., Any]
) -> None:
    expected = truth(moment, parameters)
    for found in gradients(expectation(sampler, power), parameters):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["right tail", "left tail", "truncated nowhere", "half normal"])
def test_gradients_in_tails_are_those_of_the_quantiles(name: str) -> None:
    """By central differences of SciPy's quantiles, good to 1e-7; infinite ends have a gradient of zero."""
    case, u = CASES[name], np.array([0.2, 0.5, 0.9])
    found = gradients(lambda array, *each: case.sampler(array(u), *each).sum(), case.parameters)
    for index, each in enumerate(case.parameters):
        if np.isfinite(each):
            moved = [[*case.parameters] for _ in range(2)]
            moved[0][index], moved[1][index] = each - 1e-5, each + 1e-5
            below, above = (truncated(*fields).truth.ppf(u).sum() for fields in moved)
            expected = (above - below) / 2e-5
        else:
            expected = 0.0
        assert [one[index] for one in found] == pytest.approx([expected] * 2, rel=1e-6, abs=1e-7)


def relaxed_slope(logit: float, temperature: float) -> float:
    """d/d logit E s^2, s = sigmoid((logit + logistic noise) / temperature), by quadrature in one dimension."""

    def integrand(x: float) -> float:
        s = expit((logit + x) / temperature)
        return 2.0 * s * s * (1.0 - s) / temperature * stats.logistic.pdf(x)

    return float(integrate.quad(integrand, -60.0, 60.0, points=[-logit], epsabs=0.0, epsrel=1e-12, limit=500)[0])


def squared(sampler: Callable[..., Any], temperature: float) -> Callable[..., Any]:
    """E s^2 of the first of two categories, by quadrature over the noise of both."""
    rule = Quadrature.of(81)
    nodes = np.stack(np.meshgrid(rule.nodes, rule.nodes), -1)
    weights = np.outer(rule.weights, rule.weights)

    def mean(array: Callable[[np.ndarray], Any], logits: Any) -> Any:
        return (array(weights) * sampler(array(nodes), logits, temperature)[..., 0] ** 2).sum()

    return mean


def test_relaxed_gradients_are_those_of_the_relaxed_objective() -> None:
    logits, temperature = np.array([0.3, -0.4]), 1.5
    slope = relaxed_slope(0.7, temperature)
    for (found,) in gradients(squared(samplers.gumbel_softmax, temperature), (logits,)):
        np.testing.assert_allclose(found, [slope, -slope], rtol=1e-10)


def test_relaxed_gradients_are_biased_for_the_discrete_objective() -> None:
    """E hard^2 is the probability of the category. The bias is not zero; at last it falls with the temperature."""
    prob = expit(0.7)
    bias = {each: relaxed_slope(0.7, each) - prob * (1.0 - prob) for each in (2.0, 1.0, 0.25, 0.1, 0.05)}
    assert bias[2.0] < bias[1.0] < -0.04
    assert bias[0.25] > bias[0.1] > bias[0.05] > 0.003  # of a gradient of 0.22: the bias changes its sign on the way


def test_straight_through_has_the_gradient_of_the_relaxed_draw() -> None:
    u = noise(100, 4, seed=6)
    weights = np.array([1.0, -2.0, 3.0, 0.5])
    parameters = LOGITS, np.array(0.7)
    soft, hard = (
        gradients(lambda array, *each, f=f: (f(array(u), *each) * array(weights)).sum(), parameters)
        for f in (samplers.gumbel_softmax, samplers.straight_through)
    )
    for one, other in zip(soft, hard, strict=True):
        for by_soft, by_hard in zip(one, other, strict=True):
            np.testing.assert_allclose(by_hard, by_soft, rtol=1e-13)
            assert np.abs(by_hard).max() > 0.1


# --- extremes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_straight_through_is_one_hot_to_the_bit(dtype: str) -> None:
    u = noise(NUM_DRAWS, 4, seed=7).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        arrays = u, torch.from_numpy(u), jnp.asarray(u)
        for draws in (np.asarray(samplers.straight_through(each, LOGITS, 0.7)) for each in arrays):
            assert draws.dtype == dtype
            assert np.isin(draws, (0.0, 1.0)).all()
            assert (draws.sum(-1) == 1.0).all()


def test_brackets_matter() -> None:
    """In the other order, which reads the same, some entries are not 0 or 1."""
    u = noise(NUM_DRAWS, 4, seed=7)
    soft, hard = samplers.gumbel_softmax(u, LOGITS, 0.7), samplers.straight_through(u, LOGITS, 0.7)
    assert ((hard + soft - soft) != hard).any(-1).mean() > 0.05


SIZES = (1e-6, 1.0, 1e6)
ENDS = ((-INF, INF), (0.0, 1e-6), (0.0, INF), (-INF, 1e-6), (1e6, INF), (-1e6, 1e6), (-1e6, -1.0), (-INF, -1e6))
EXTREMES: dict[str, tuple[Callable[..., Any], list[tuple[float, ...]]]] = {
    "exponential": (samplers.exponential, [(rate,) for rate in SIZES]),
    "kumaraswamy": (samplers.kumaraswamy, [(a, b) for a in SIZES for b in SIZES]),
    "boosted_log_gamma": (samplers.boosted_log_gamma, [(log, size) for log in (-1e6, 1.0) for size in SIZES]),
    "truncated_normal": (
        samplers.truncated_normal,
        [(loc, scale, *ends) for loc in (-1e6, -1e-6, 0.0, 1e6) for scale in SIZES for ends in ENDS],
    ),
    "gumbel_softmax": (samplers.gumbel_softmax, [(logit, size) for logit in (-1e6, 0.0, 1e6) for size in SIZES]),
    "straight_through": (samplers.straight_through, [(logit, size) for logit in (-1e6, 0.0, 1e6) for size in SIZES]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_finite(name: str, dtype: str) -> None:
    """Noise 0 and 1 with parameters from 1e-6 to 1e6: draws, and gradients by every parameter."""
    sampler, points = EXTREMES[name]
    u = np.array([[0.0], [1.0], [0.5], [1e-7]], dtype)
    parameters = [np.broadcast_to(column, (4, len(points))).astype(dtype) for column in np.array(points).T]
    u = np.broadcast_to(u, (4, len(points))).copy()
    if "temperature" in sampler.__code__.co_varnames:
        # Two categories, of which the other has a logit of zero.
        u = np.stack([u, u[::-1]], -1)
        parameters = [np.stack([parameters[0], 0.0 * parameters[0]], -1), parameters[1][..., None]]

    def first(*each: Any) -> Any:
        draws = sampler(*each)
        return (draws[..., 0] if draws.ndim == 3 else draws).sum(), draws

    assert np.isfinite(sampler(u, *parameters)).all()
    leaves = [torch.tensor(each, requires_grad=True) for each in parameters]
    total, draws = first(torch.from_numpy(u), *leaves)
    found = [draws.detach(), *torch.autograd.grad(total, leaves)]
    with jax.enable_x64(dtype == "float64"):
        every = tuple(range(1, 1 + len(parameters)))
        by_jax, also = jax.jit(jax.grad(first, every, has_aux=True))(*map(jnp.asarray, (u, *parameters)))
        for one, other in zip(found, (also, *by_jax), strict=True):
            assert np.asarray(other).dtype == dtype
            assert np.isfinite(one.numpy()).all()
            assert np.isfinite(other).all()


def test_truncated_draws_stay_inside() -> None:
    u = np.array([0.0, 1e-300, 0.3, 1.0])
    for low, high in ENDS:
        draws = samplers.truncated_normal(u, 0.3, 2.0, low, high)
        assert ((draws >= low) & (draws <= high)).all()


def test_clamp() -> None:
    for dtype, bits in (("float32", 24), ("float64", 53)):
        low, high = samplers.clamp(np.array([0.0, 1.0], dtype))
        assert 0.0 < low == np.finfo(dtype).tiny
        assert high == 1.0 - 2.0**-bits
        inside = noise(5).astype(dtype)
        assert (samplers.clamp(inside) == inside).all()


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_noise_must_be_floats() -> None:
    for wrong in (np.array([0, 1]), 0.5, [0.5]):
        with pytest.raises(UserError, match=r"noise is .*: it must be an array of floats"):
            samplers.exponential(wrong, 1.0)


def test_parameters_must_not_be_longer_than_the_noise() -> None:
    """Noise (100, 1) would give every category the same noise; noise (4,) the same draw three times."""
    with pytest.raises(UserError, match=r"logits has shape \(4,\): it must broadcast to that of noise, \(100, 1\)"):
        samplers.gumbel_max(noise(100, 1), LOGITS)
    with pytest.raises(UserError, match=r"rate has shape \(3, 1\)"):
        samplers.exponential(noise(4), np.ones((3, 1)))


# --- NumPyro's relaxed categoricals ---------------------------------------------------------------------------------

SOFT, HARD = "RelaxedOneHotCategorical", "RelaxedOneHotCategoricalStraightThrough"


def test_relaxed_density_is_pyro_s() -> None:
    rng = np.random.default_rng(8)
    value, weights = rng.dirichlet(np.ones(4), (5, 3)), rng.uniform(0.1, 3.0, (3, 4))
    for arguments in ({"probs": weights}, {"logits": np.log(weights) + 2.0}):
        for temperature in (0.3, 2.0):
            theirs = getattr(pyro_dist, SOFT)(
                torch.tensor(temperature, dtype=torch.float64),
                **{name: torch.tensor(each) for name, each in arguments.items()},
            )
            with jax.enable_x64(True):
                ours = ONE_HOT[SOFT](temperature, **arguments)
                assert (ours.batch_shape, ours.event_shape) == ((3,), (4,))
                found = ours.log_prob(jnp.asarray(value))
                np.testing.assert_allclose(ours.probs, theirs.probs.numpy(), rtol=1e-12)
            np.testing.assert_allclose(found, theirs.log_prob(torch.from_numpy(value)).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [SOFT, HARD])
def test_relaxed_draws_are_those_of_our_samplers(name: str) -> None:
    """The same Gumbel noise gives the same draws, whose density is that of the relaxed ones."""
    sampler = samplers.gumbel_softmax if name == SOFT else samplers.straight_through
    key, logits = jax.random.key(0), np.array([0.3, -1.0, 0.5])
    with jax.enable_x64(True):
        ours = ONE_HOT[name](0.6, logits=logits).expand([2])
        draws, intermediates = ours.sample_with_intermediates(key, (100,))
        uniform = jnp.exp(-jnp.exp(-jax.random.gumbel(key, (100, 2, 3))))
        np.testing.assert_allclose(draws, sampler(uniform, logits, 0.6), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(draws, ours.sample(key, (100,)))
        soft = ONE_HOT[SOFT](0.6, logits=logits)
        expected = soft.log_prob(samplers.gumbel_softmax(uniform, logits, 0.6))
        np.testing.assert_allclose(ours.log_prob(draws, intermediates), expected, rtol=1e-10)


def test_relaxed_densities_stay_finite_at_low_temperatures() -> None:
    """Draws are rounded to the corners, their logarithms are not."""
    ours = ONE_HOT[SOFT](1e-3, logits=jnp.zeros(3))
    draws, intermediates = ours.sample_with_intermediates(jax.random.key(1), (100,))
    assert (draws == 0.0).any()
    assert np.isfinite(ours.log_prob(draws, intermediates)).all()
    assert np.isfinite(ours.log_prob(draws)).all()


@pytest.mark.parametrize("name", [SOFT, HARD])
def test_relaxed_categoricals_serve_in_a_guide(name: str) -> None:
    """SVI moves the logits towards the category whose cost is least, by gradients through the draws."""
    family = ONE_HOT[name]
    prior = family(0.5, logits=jnp.zeros(3)).mask(name == SOFT)  # a one-hot draw has no density of its own

    def model() -> None:
        with numpyro.plate("rows", 4):
            drawn = numpyro.sample("drawn", prior)
            numpyro.factor("cost", -(drawn * jnp.array([0.0, 3.0, 6.0])).sum(-1))

    def guide() -> None:
        logits = numpyro.param("logits", jnp.zeros(3))
        with numpyro.plate("rows", 4):
            numpyro.sample("drawn", family(0.5, logits=logits))

    svi = SVI(model, guide, numpyro.optim.Adam(0.05), Trace_ELBO(num_particles=10))
    found = svi.run(jax.random.key(2), 200, progress_bar=False).params["logits"]
    assert found[0] > found[1] + 0.5
    assert found[1] > found[2]


def test_relaxed_categoricals_take_probs_or_logits() -> None:
    for arguments in ({}, {"probs": jnp.ones(2) / 2.0, "logits": jnp.zeros(2)}):
        with pytest.raises(UserError, match="takes probs or logits: give one of them"):
            ONE_HOT[SOFT](1.0, **arguments)
