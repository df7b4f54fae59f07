"""The closed form of the super-epicentres against what is known without it: exact evidences, symmetries, theory."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import linalg, stats
from scipy.special import logsumexp
from torch.distributions import Dirichlet, Gamma, Normal, kl_divergence

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.closed_form import earthquakes as closed_form
from latentzoo.inference.coordinate_ascent import steps
from latentzoo.inference.run import drive
from latentzoo.models.language.contract import leaves, map_leaves, take_rows

Variant = dict[str, str]
VARIANTS = [
    {"weights": weights, "noise": noise}
    for weights, noise in itertools.product(("fixed", "dirichlet"), ("known", "shared", "per_component"))
]


def ids(variant: Variant) -> str:
    return f"{variant['weights']}-{variant['noise']}"


every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=ids)
known_noise = pytest.mark.parametrize("variant", [v for v in VARIANTS if v["noise"] == "known"], ids=ids)


class Problem(NamedTuple):
    """A model with data, a prior that is not symmetric in anything, and parameters far from any optimum."""

    zoo: Any
    data: Any
    prior: Any
    params: lz.Params


def problem(variant: Variant, size: int = 3, num_rows: int = 7, seed: int = 0, free: bool = False) -> Problem:
    """Draw a problem; free: its q(component) is free, not at the optimum."""
    rng = np.random.default_rng(seed)
    zoo = lz.get("earthquakes", num_components=size, **variant)
    centres = rng.normal([3.0, -2.0], 2.0, (size, 2))
    data = zoo.Data(
        location=centres[rng.integers(size, size=num_rows)] + rng.normal(0.0, 0.7, (num_rows, 2)),
        strength=rng.poisson(rng.uniform(1.0, 15.0, num_rows)).astype(float),
    )
    chosen: dict[str, Any] = {
        "loc_mean": rng.normal([2.0, -1.0], 1.0),
        "loc_variance": rng.uniform(2.0, 5.0),
        "strength_shape": rng.uniform(1.0, 4.0),
        "strength_rate": rng.uniform(0.1, 1.0),
    }
    if variant["weights"] == "fixed":
        chosen["weights"] = rng.dirichlet(np.full(size, 5.0))
    else:
        chosen["weights_concentration"] = rng.uniform(0.5, 3.0, size)
    if variant["noise"] == "known":
        chosen["noise_variance"] = rng.uniform(0.3, 2.0)
    else:
        chosen["noise_shape"], chosen["noise_rate"] = rng.uniform(2.0, 4.0), rng.uniform(1.0, 3.0)
    noise_size = {"known": None, "shared": (), "per_component": (size,)}[variant["noise"]]
    latent_noise = noise_size is not None
    phi = zoo.Phi(
        loc_mean=centres + rng.normal(0.0, 0.5, (size, 2)),
        loc_log_scale=rng.normal(-0.5, 0.3, size),
        rate_log_shape=rng.normal(2.0, 0.5, size),
        rate_log_rate=rng.normal(0.0, 0.5, size),
        weights_log_concentration=rng.normal(0.5, 0.5, size) if variant["weights"] == "dirichlet" else None,
        noise_log_shape=np.asarray(rng.normal(1.0, 0.3, noise_size)) if latent_noise else None,
        noise_log_rate=np.asarray(rng.normal(1.0, 0.3, noise_size)) if latent_noise else None,
        component_logits=rng.normal(0.0, 1.5, (num_rows, size)) if free else None,
    )
    return Problem(zoo, data, zoo.prior(data, **chosen), lz.Params(phi=phi))


def e_step(of: Problem) -> closed_form.Stats:
    return closed_form.e_step(of.params, of.data, of.prior, of.zoo.spec)


def elbo(of: Problem) -> Any:
    return closed_form.elbo(e_step(of), of.params, of.prior, of.zoo.spec)


def scale(of: Problem) -> float:
    """The sum of the absolute terms of the bound over the rows: what rounding is measured by."""
    return float(e_step(of).scale)


def update(of: Problem) -> Problem:
    return of._replace(params=closed_form.m_step(e_step(of), of.params, of.prior, of.zoo.spec))


def converged(of: Problem) -> Problem:
    """Repeat CAVI until its parameters stand still."""
    for _ in range(20_000):
        before, of = of, update(of)
        old, new = leaves(before.params.phi), leaves(of.params.phi)
        if max(np.abs(new[name] - old[name]).max() for name in new) < 1e-14:
            return of
    raise AssertionError("CAVI has not come to rest")


def assert_same(found: Any, expected: Any, atol: float) -> None:
    """Every array of one tree is that of the other."""
    one, other = leaves(found), leaves(expected)
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


# --- exact evidences --------------------------------------------------------------------------------------------------


def log_normal(x: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The log density of a centred multivariate normal, over a batch of covariances, by Gaussian elimination."""
    log_det = np.linalg.slogdet(2.0 * np.pi * covariance)[1]
    solved = np.linalg.solve(covariance, np.broadcast_to(x[:, None], (*covariance.shape[:-1], 1)))[..., 0]
    return -0.5 * (log_det + solved @ x)


def log_counts(strength: np.ndarray, prior: Any) -> float:
    """The log evidence of counts of one rate: each is negative binomial given those before it."""
    shape = prior.strength_shape + np.concatenate([[0.0], np.cumsum(strength)[:-1]]) if len(strength) else strength
    rate = prior.strength_rate + np.arange(len(strength))
    return float(stats.nbinom.logpmf(strength, shape, rate / (rate + 1.0)).sum())


def log_urn(assignment: np.ndarray, prior: Any) -> float:
    """The log probability of an assignment, a row after another: known weights, or Polya's urn."""
    if prior.weights is not None:
        return float(np.log(prior.weights[assignment]).sum())
    urn, total = np.array(prior.weights_concentration), 0.0
    for component in assignment:
        total += np.log(urn[component] / urn.sum())
        urn[component] += 1.0
    return float(total)


def noise_grid(prior: Any, spec: Any, step: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Values of the noise variance and their log weights: the trapezoid in its log, which converges exponentially."""
    if spec.noise == "known":
        return np.array([prior.noise_variance]), np.zeros(1)
    log_noise = np.log(prior.noise_rate) + np.arange(-8.0, 32.0, step)
    density = stats.invgamma.logpdf(np.exp(log_noise), prior.noise_shape, scale=prior.noise_rate)
    return np.exp(log_noise), density + log_noise + np.log(step)


def brute_force_log_joint(data: Any, prior: Any, spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every assignment of rows to components, and log p(data, assignment): all else integrated out."""
    num_rows = len(data.strength)
    noise, log_weight = noise_grid(prior, spec)

    @functools.cache
    def block(rows: tuple[int, ...]) -> np.ndarray:
        """log p(rows | they are one component's), at each noise."""
        size, some = len(rows), list(rows)
        covariance = noise[:, None, None] * np.eye(size) + prior.loc_variance  # N(nu, rho) shared, noise for each
        centred = data.location[some] - prior.loc_mean
        return log_counts(data.strength[some], prior) + sum(log_normal(x, covariance) for x in centred.T)

    assignments = np.array(list(itertools.product(range(spec.num_components), repeat=num_rows)))
    log_joint = []
    for assignment in assignments:
        blocks = [block(tuple(np.flatnonzero(assignment == k))) for k in range(spec.num_components)]
        if spec.noise == "per_component":
            integrated = sum(logsumexp(each + log_weight) for each in blocks)
        else:
            integrated = logsumexp(sum(blocks) + log_weight)
        log_joint.append(integrated + log_urn(assignment, prior))
    return assignments, np.array(log_joint)


def brute_force_log_evidence(data: Any, prior: Any, spec: Any) -> float:
    return float(logsumexp(brute_force_log_joint(data, prior, spec)[1]))


def brute_force_kl(of: Problem) -> float:
    """KL(q || the exact posterior), noise known, by the chain rule: of the assignments, then of the rest given them.

    Given an assignment the posterior is conjugate; its normals come from conditioning a joint covariance.
    """
    data, prior, phi = of.data, of.prior, of.params.phi
    assignments, log_joint = brute_force_log_joint(data, prior, of.zoo.spec)
    log_q = np.log(softmax(phi.component_logits))[np.arange(len(data.strength)), assignments].sum(1)
    members = (assignments[:, :, None] == np.arange(of.zoo.spec.num_components)).transpose(0, 2, 1)  # (Z, K, N)

    @functools.cache
    def centre(rows: tuple[int, ...]) -> tuple[np.ndarray, float]:
        covariance = prior.noise_variance * np.eye(len(rows)) + prior.loc_variance
        gain = np.linalg.solve(covariance, np.full(len(rows), prior.loc_variance))
        centred = data.location[list(rows)] - prior.loc_mean
        return prior.loc_mean + gain @ centred, prior.loc_variance * (1.0 - gain.sum())

    posterior = [[centre(tuple(np.flatnonzero(rows))) for rows in row] for row in members]
    mean = np.array([[each[0] for each in row] for row in posterior])
    deviation = np.sqrt([[each[1] for each in row] for row in posterior])
    tensor = torch.from_numpy
    kl = kl_divergence(
        Normal(tensor(phi.loc_mean), tensor(np.exp(phi.loc_log_scale))[:, None]),
        Normal(tensor(mean), tensor(deviation)[..., None]),
    ).sum((-1, -2))
    kl += kl_divergence(
        Gamma(tensor(np.exp(phi.rate_log_shape)), tensor(np.exp(phi.rate_log_rate))),
        Gamma(tensor(prior.strength_shape + members @ data.strength), tensor(prior.strength_rate + members.sum(-1))),
    ).sum(-1)
    if prior.weights is None:
        kl += kl_divergence(
            Dirichlet(tensor(np.exp(phi.weights_log_concentration)).expand(kl.shape[0], -1)),
            Dirichlet(tensor(prior.weights_concentration + members.sum(-1))),
        )
    log_posterior = log_joint - logsumexp(log_joint)
    return float(np.exp(log_q) @ (log_q - log_posterior + kl.numpy()))


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits), 1).numpy()


def test_brute_force_agrees_with_itself() -> None:
    """The oracle first: the grid of the noise is fine enough, and at one row its evidence is Student's t."""
    of = problem({"weights": "fixed", "noise": "shared"}, num_rows=2)
    noise, log_weight = noise_grid(of.prior, of.zoo.spec)
    finer, log_finer = noise_grid(of.prior, of.zoo.spec, step=0.05)
    assert logsumexp(log_weight) == pytest.approx(0.0, abs=1e-12)
    for power in (-1.5, 0.5):
        coarse = logsumexp(log_weight + power * np.log(noise))
        assert coarse == pytest.approx(logsumexp(log_finer + power * np.log(finer)), abs=1e-12)
    # A centre that is known (its variance all but zero) leaves a normal with inverse-Gamma variance: Student's t.
    prior = of.prior._replace(loc_variance=1e-14, weights=np.array([1.0, 0.0, 0.0]) + 1e-300)
    spread = np.sqrt(prior.noise_rate / prior.noise_shape)
    one = take_rows(of.data, slice(1))
    student = stats.multivariate_t(prior.loc_mean, spread**2 * np.eye(2), df=2.0 * prior.noise_shape)
    expected = student.logpdf(one.location[0]) + log_counts(one.strength, prior)
    assert brute_force_log_evidence(one, prior, of.zoo.spec) == pytest.approx(expected, abs=1e-10)


def brute_force_one_component(data: Any, prior: Any) -> float:
    """The log evidence for K = 1 and a known noise: one normal of all rows for each coordinate, by Cholesky."""
    num_rows = len(data.strength)
    factor = linalg.cholesky(prior.noise_variance * np.eye(num_rows) + prior.loc_variance, lower=True)
    white = linalg.solve_triangular(factor, data.location - prior.loc_mean, lower=True)
    log_det = 2.0 * np.log(np.diag(factor)).sum() + num_rows * np.log(2.0 * np.pi)
    return float(-log_det - 0.5 * (white**2).sum()) + log_counts(data.strength, prior)


@known_noise
@pytest.mark.parametrize("source", ["small", "simulated", "quakes"])
def test_one_component_is_exact(variant: Variant, source: str, request: pytest.FixtureRequest) -> None:
    """With K = 1 and a known noise the posterior factorises, so mean field reaches the evidence."""
    zoo = lz.get("earthquakes", num_components=1, **variant)
    if source == "quakes":
        folder: Path = request.getfixturevalue("data_folder")
        data = zoo.read(folder / "quakes.csv", longitude="long", latitude="lat", count="stations")
        assert len(data.strength) == 1000
    else:
        data, _ = zoo.simulate(seed=3, num_rows={"small": 6, "simulated": 1000}[source])
    prior = zoo.prior(data, loc_mean=data.location.mean(0) + 1.0, strength_shape=1.7, strength_rate=0.3)
    fit = lz.fit(zoo, data, "cavi", prior=prior, tol=1e-14, progress=False)
    assert fit.converged
    assert fit.elbo == pytest.approx(brute_force_one_component(data, prior), rel=1e-9)


@known_noise
@pytest.mark.parametrize(("size", "num_rows"), [(2, 7), (3, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_elbo_plus_kl_is_the_evidence(variant: Variant, size: int, num_rows: int, seed: int) -> None:
    """At any parameters; this fixes every constant of the bound."""
    of = problem(variant, size, num_rows, seed, free=True)
    evidence = brute_force_log_evidence(of.data, of.prior, of.zoo.spec)
    at_rest = update(of)  # its q(component) is left at the optimum, here written out
    optimum = closed_form.local_optimum(at_rest.params, at_rest.data, at_rest.prior, at_rest.zoo.spec)
    for each in (of, at_rest._replace(params=optimum)):
        kl = brute_force_kl(each)
        assert kl > 0.0
        assert elbo(each) + kl == pytest.approx(evidence, rel=0, abs=1e-10 * (scale(each) + kl))
    assert elbo(at_rest) == pytest.approx(elbo(at_rest._replace(params=optimum)), rel=0, abs=1e-12 * scale(at_rest))


@every_variant
@pytest.mark.parametrize(("size", "num_rows"), [(1, 3), (2, 6), (3, 5)])
def test_elbo_is_below_the_evidence(variant: Variant, size: int, num_rows: int) -> None:
    for seed in range(2):
        of = problem(variant, size, num_rows, seed)
        evidence = brute_force_log_evidence(of.data, of.prior, of.zoo.spec)
        best = converged(of)
        assert elbo(of) < elbo(best)
        gap = evidence - elbo(best)
        exact = size == 1 and variant["noise"] == "known"
        assert gap == pytest.approx(0.0, abs=1e-9) if exact else 0.0 < gap < 10.0


# --- the gradient -----------------------------------------------------------------------------------------------------


def in_jax(tree: Any) -> Any:
    return map_leaves(lambda _, leaf: jnp.asarray(leaf), tree)


def automatic_gradient(of: Problem) -> tuple[float, lz.Params]:
    """The hand-derived value in JAX, and its gradient by JAX."""
    with jax.enable_x64(True):
        data, prior = in_jax(of.data), in_jax(of.prior)
        function = jax.value_and_grad(lambda params: elbo(Problem(of.zoo, data, prior, params)))
        value, gradient = function(in_jax(of.params))
        return float(value), map_leaves(lambda _, leaf: np.asarray(leaf), gradient)


@every_variant
@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_gradient_is_that_of_the_bound(variant: Variant, free: bool) -> None:
    """At the optimum of q(component) JAX gives the total derivative: by the envelope theorem, the partial one."""
    of = problem(variant, 3, 9, seed=1, free=free)
    value, automatic = automatic_gradient(of)
    assert value == pytest.approx(elbo(of), rel=0, abs=1e-12 * scale(of))
    by_hand = closed_form.elbo_gradient(e_step(of), of.params, of.prior, of.zoo.spec)
    if free:
        local = closed_form.local_gradient(of.params, of.data, of.prior, of.zoo.spec)
        by_hand = lz.Params(phi=by_hand.phi._replace(component_logits=local.phi.component_logits))
    assert_same(by_hand, automatic, atol=1e-11 * scale(of))
    assert max(np.abs(leaf).max() for leaf in leaves(by_hand).values()) > 0.1  # not a comparison of zeros


@every_variant
def test_the_fixed_point_is_a_zero_of_the_gradient(variant: Variant) -> None:
    best = converged(problem(variant, 3, 12, seed=4))
    gradient = closed_form.elbo_gradient(e_step(best), best.params, best.prior, best.zoo.spec)
    assert_same(gradient, map_leaves(lambda _, leaf: np.zeros_like(leaf), gradient), atol=1e-10 * scale(best))
    # And of the gradient by q(component), written out.
    optimum = closed_form.local_optimum(best.params, best.data, best.prior, best.zoo.spec)
    local = closed_form.local_gradient(optimum, best.data, best.prior, best.zoo.spec).phi.component_logits
    np.testing.assert_allclose(local, 0.0, atol=1e-13)


class Block(NamedTuple):
    """An exponential family: its fields, its log partition function, and natural parameters to fields and back."""

    fields: tuple[str, ...]
    log_partition: Callable[[Any], Any]
    from_natural: Callable[[Any], tuple[Any, ...]]
    to_natural: Callable[..., Any]


def gamma_block(shape: str, rate: str) -> Block:
    gammaln = jax.scipy.special.gammaln
    return Block(
        (shape, rate),
        lambda eta: (gammaln(eta[0]) - eta[0] * jnp.log(-eta[1])).sum(),
        lambda eta: (jnp.log(eta[0]), jnp.log(-eta[1])),
        lambda log_shape, log_rate: jnp.stack([jnp.exp(log_shape), -jnp.exp(log_rate)]),
    )


BLOCKS = {
    "rate": gamma_block("rate_log_shape", "rate_log_rate"),
    "noise": gamma_block("noise_log_shape", "noise_log_rate"),
    "weights": Block(
        ("weights_log_concentration",),
        lambda eta: jax.scipy.special.gammaln(eta).sum() - jax.scipy.special.gammaln(eta.sum()),
        lambda eta: (jnp.log(eta),),
        jnp.exp,
    ),
    # (m / v, -1 / 2v), two coordinates with one variance: eta is (3, K).
    "loc": Block(
        ("loc_mean", "loc_log_scale"),
        lambda eta: (-(eta[:2] ** 2).sum(0) / (4.0 * eta[2]) - jnp.log(-2.0 * eta[2])).sum(),
        lambda eta: ((-eta[:2] / (2.0 * eta[2])).T, -0.5 * jnp.log(-2.0 * eta[2])),
        lambda mean, log_scale: jnp.concatenate([mean.T, -0.5 * jnp.ones((1, len(mean)))]) * jnp.exp(-2.0 * log_scale),
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def natural_step(name: str, phi: tuple[Any, ...], slopes: tuple[Any, ...], target: tuple[Any, ...]) -> tuple[Any, ...]:
    """The natural parameters before, one unit natural-gradient step on, and at the target."""
    block = BLOCKS[name]
    eta = block.to_natural(*phi)
    (gradient,) = jax.vjp(block.from_natural, eta)[1](slopes)
    fisher = jax.hessian(block.log_partition)(eta).reshape(eta.size, eta.size)
    stepped = eta + jnp.linalg.solve(fisher, gradient.ravel()).reshape(eta.shape)
    return eta, stepped, block.to_natural(*target)


@every_variant
def test_an_update_is_a_unit_natural_gradient_step(variant: Variant) -> None:
    """Each block in its natural parameters, all else fixed: eta + F^-1 gradient, F the Hessian of the log partition."""
    of = problem(variant, 3, 9, seed=2, free=True)
    found = e_step(of)
    target = closed_form.m_step(found, of.params, of.prior, of.zoo.spec).phi
    before = dict.fromkeys(BLOCKS, of.params)
    # The noise is updated after the centres.
    moved = of.params.phi._replace(loc_mean=target.loc_mean, loc_log_scale=target.loc_log_scale)
    before["noise"] = lz.Params(phi=moved)
    for name, params in before.items():
        fields = BLOCKS[name].fields
        if getattr(target, fields[0]) is None:
            continue
        slopes = closed_form.elbo_gradient(found, params, of.prior, of.zoo.spec)
        with jax.enable_x64(True):
            trees = [tuple(getattr(tree, field) for field in fields) for tree in (params.phi, slopes.phi, target)]
            eta, stepped, arrived = map(np.asarray, natural_step(name, *trees))
        np.testing.assert_allclose(stepped, arrived, rtol=0, atol=1e-11 * np.abs(arrived).max())
        assert np.abs(arrived - eta).max() > 0.1  # the step went somewhere


# --- sums over rows ---------------------------------------------------------------------------------------------------


def assert_same_stats(found: closed_form.Stats, expected: closed_form.Stats) -> None:
    for name, one, other in zip(expected._fields, found, expected, strict=True):
        if name != "scale":  # test_the_scale_adds_up
            size = expected.scale if name == "bound" else np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * size, err_msg=name)


@every_variant
@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_statistics_add_up(variant: Variant, free: bool) -> None:
    of = problem(variant, 4, 1001, seed=5, free=free)

    def part(rows: slice) -> closed_form.Stats:
        phi = of.params.phi
        logits = phi.component_logits[rows] if free else None
        params = lz.Params(phi=phi._replace(component_logits=logits))
        return e_step(of._replace(data=take_rows(of.data, rows), params=params))

    halves = [part(slice(300)), part(slice(300, None))]
    assert_same_stats(accumulate.add(iter(halves)), e_step(of))
    if not free:
        chunked = accumulate.in_chunks(closed_form.e_step, 7)
        assert_same_stats(chunked(of.params, of.data, of.prior, of.zoo.spec), e_step(of))


@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_the_scale_adds_up(free: bool) -> None:
    """The yardstick of rounding is a sum over rows, too: chunks and minibatches measure by the same one."""
    of = problem(VARIANTS[0], 4, 30, seed=5, free=free)
    parts = []
    for row in range(30):
        logits = of.params.phi.component_logits[row : row + 1] if free else None
        params = lz.Params(phi=of.params.phi._replace(component_logits=logits))
        parts.append(scale(of._replace(data=take_rows(of.data, slice(row, row + 1)), params=params)))
    assert sum(parts) == pytest.approx(scale(of), rel=1e-12)


@every_variant
def test_minibatches_are_unbiased(variant: Variant) -> None:
    """Scaled by N / n, the statistics of all C(6, 2) minibatches are on average those of the whole."""
    of = problem(variant, 3, 6, seed=6)
    batches = [list(rows) for rows in itertools.combinations(range(6), 2)]
    found = [accumulate.scaled(e_step(of._replace(data=take_rows(of.data, rows))), 6 / 2) for rows in batches]
    assert_same_stats(accumulate.scaled(accumulate.add(iter(found)), 1 / len(batches)), e_step(of))


@every_variant
def test_chunks_change_no_fit(variant: Variant) -> None:
    of = problem(variant, 3, 200, seed=7)
    runs = [
        drive(steps(closed_form, e_step, of.data, of.prior, of.zoo.spec, of.params, tol=0.0), num_steps=15)
        for e_step in (closed_form.e_step, accumulate.in_chunks(closed_form.e_step, 33))
    ]
    whole, chunked = runs
    np.testing.assert_allclose(chunked.trace.elbo, whole.trace.elbo, rtol=0, atol=1e-12 * scale(of))
    assert_same(chunked.params, whole.params, atol=1e-10)


@every_variant
@pytest.mark.parametrize("chunk_rows", [None, 17])
def test_the_bound_never_falls(variant: Variant, chunk_rows: int | None) -> None:
    for seed in range(3):
        zoo, data, *_ = problem(variant, 4, 40, seed)
        fit = lz.fit(zoo, data, seed=seed, tol=0.0, num_steps=20_000, chunk_rows=chunk_rows, progress=False)
        at_end = Problem(zoo, data, fit.prior, fit.params)
        assert fit.num_steps > 3
        assert np.diff(fit.elbo_trace).min() > -1e-12 * scale(at_end)
        assert elbo(at_end) == pytest.approx(fit.elbo, rel=0, abs=1e-12 * scale(at_end))


# --- symmetries -------------------------------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_relabelling_changes_nothing(variant: Variant, free: bool) -> None:
    of = problem(variant, 4, 20, seed=8, free=free)
    order = np.array([2, 0, 3, 1])

    def shuffled(name: str, leaf: np.ndarray) -> np.ndarray:
        if name == "component_logits":
            return leaf[:, order]
        each = name not in ("loc_mean", "loc_variance") and np.shape(leaf) == (4,)
        return leaf[order] if each or np.shape(leaf) == (4, 2) else leaf

    renamed = of._replace(
        prior=map_leaves(shuffled, of.prior), params=lz.Params(phi=map_leaves(shuffled, of.params.phi))
    )
    assert elbo(renamed) == pytest.approx(elbo(of), rel=0, abs=1e-13 * scale(of))
    # Updates keep the names, too; the prior matters: left in its old order, it is another model.
    expected = map_leaves(shuffled, update(of).params.phi)
    assert_same(update(renamed).params.phi, expected, atol=1e-12)
    if variant["weights"] == "fixed":
        assert abs(elbo(renamed._replace(prior=of.prior)) - elbo(of)) > 1e-3


@every_variant
def test_translation_changes_nothing(variant: Variant) -> None:
    of = problem(variant, 3, 20, seed=9)
    step = np.array([130.0, -70.0])
    moved = Problem(
        of.zoo,
        of.data._replace(location=of.data.location + step),
        of.prior._replace(loc_mean=of.prior.loc_mean + step),
        lz.Params(phi=of.params.phi._replace(loc_mean=of.params.phi.loc_mean + step)),
    )
    assert elbo(moved) == pytest.approx(elbo(of), rel=0, abs=1e-11 * scale(of))


@every_variant
@pytest.mark.parametrize("factor", [1e-3, 111.2])
def test_a_change_of_units_is_a_change_of_variables(variant: Variant, factor: float) -> None:
    """Degrees to km: densities of N places in the plane change by factor^(-2 N), and nothing else does."""
    of = problem(variant, 3, 20, seed=10)

    def times(value: Any, power: int) -> Any:
        return None if value is None else value * factor**power

    def plus(value: Any, power: int) -> Any:
        return None if value is None else value + power * np.log(factor)

    prior, phi = of.prior, of.params.phi
    other = Problem(
        of.zoo,
        of.data._replace(location=of.data.location * factor),
        prior._replace(
            loc_mean=prior.loc_mean * factor,
            loc_variance=times(prior.loc_variance, 2),
            noise_variance=times(prior.noise_variance, 2),
            noise_rate=times(prior.noise_rate, 2),
        ),
        lz.Params(
            phi=phi._replace(
                loc_mean=phi.loc_mean * factor,
                loc_log_scale=plus(phi.loc_log_scale, 1),
                noise_log_rate=plus(phi.noise_log_rate, 2),
            )
        ),
    )
    jacobian = -2.0 * len(of.data.strength) * np.log(factor)
    assert elbo(other) - jacobian == pytest.approx(elbo(of), rel=0, abs=1e-12 * (scale(of) + abs(jacobian)))
