"""The VAE with two latents against what is known without its closed form.

A linear decoder with Gaussian noise makes it probabilistic PCA, whose evidence and posterior are closed; the bounds are
then quadratic in the noise, so that their expectations are averages over nodes. With one coordinate each, quadrature of
the model's own densities gives the evidence whatever the networks.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyro
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import optimize
from scipy.special import logsumexp
from torch.distributions import MultivariateNormal, kl_divergence

import latentzoo as lz
from latentzoo.inference.closed_form import two_latent_vae as closed_form
from latentzoo.models.language.contract import leaves, map_leaves, map_trees, take_rows
from latentzoo.models.language.networks import Layer

LIKELIHOODS = ("bernoulli", "gaussian", "learned_gaussian")
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


class Problem(NamedTuple):
    """A model with data and parameters far from any optimum."""

    zoo: Any
    data: Any
    prior: Any
    params: lz.Params

    @property
    def args(self) -> tuple[lz.Params, Any, Any]:
        return self.params, self.data, self.prior

    def value(self, noise: dict[str, np.ndarray]) -> tuple[float, lz.Params]:
        return closed_form.value_and_gradient(*self.args, noise, self.zoo.spec)

    def log_weights(self, noise: dict[str, np.ndarray]) -> np.ndarray:
        return closed_form.log_weights(*self.args, noise, self.zoo.spec)

    def bounds(self, noise: dict[str, np.ndarray]) -> np.ndarray:
        return closed_form.bounds(*self.args, noise, self.zoo.spec)

    def noise(self, seed: int = 0) -> dict[str, np.ndarray]:
        return closed_form.noise(self.data, self.zoo.spec, np.random.default_rng(seed))


def problem(num_rows: int = 6, num_features: int = 4, seed: int = 0, **spec: Any) -> Problem:
    rng = np.random.default_rng(seed)
    zoo = lz.get("two_latent_vae", **{"hidden": (5,), **spec})
    x = rng.normal(size=(num_rows, num_features))
    if zoo.spec.likelihood == "bernoulli":
        x = (x > 0.0).astype(float)
    data = zoo.Data(x)
    prior = zoo.prior(data, noise_scale=0.7)
    params = map_leaves(lambda _, leaf: leaf + 0.1 * rng.normal(size=np.shape(leaf)), zoo.init(data, prior, seed))
    return Problem(zoo, data, prior, params)


def linear(num_first: int = 2, num_latents: int = 1, seed: int = 0) -> Problem:
    return problem(num_first=num_first, num_latents=num_latents, hidden=(), likelihood="learned_gaussian", seed=seed)


def nodes(of: Problem, num: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Gauss-Hermite nodes as noise, the same for each row, with their weights.

    Two for each coordinate are exact where the integrand is quadratic in the noise.
    """
    sizes = {"first": of.zoo.spec.num_first, "second": of.zoo.spec.num_latents}
    line, weight = hermegauss(num)
    grid = np.array(list(itertools.product(line, repeat=sum(sizes.values()))))
    weights = np.array([np.prod(each) for each in itertools.product(weight / weight.sum(), repeat=grid.shape[1])])
    rows = np.ones((len(of.data.x), 1))
    split = [np.split(node, [sizes["first"]]) for node in grid]
    return [{"first": rows * first, "second": rows * second} for first, second in split], weights


def expected(function: Any, of: Problem, num: int) -> Any:
    """The expectation over the noise of a function of it."""
    noise, weights = nodes(of, num)
    return sum(weight * function(each) for weight, each in zip(weights, noise, strict=True))


# --- a linear decoder: probabilistic PCA ------------------------------------------------------------------------------


class Exact(NamedTuple):
    """What probabilistic PCA says of the rows: the evidence of each, and the posterior of all its coordinates."""

    log_evidence: np.ndarray
    posterior: MultivariateNormal


def exact(of: Problem) -> Exact:
    """By the closed form of probabilistic PCA; its posterior by conditioning the joint normal of x and the latents."""
    layer, noise_log_scale = of.params.theta.decoder["out"], of.params.theta.noise_log_scale
    pca = lz.get("probabilistic_pca", num_latents=len(layer.weight))
    theta = pca.Theta(layer.weight.T, layer.bias, noise_log_scale)
    log_evidence = pca.closed_form.log_predictive(
        lz.Params(theta, pca.Phi()), pca.Data(of.data.x), pca.Prior(), pca.spec
    )
    of_x = layer.weight.T @ layer.weight + np.exp(2.0 * noise_log_scale) * np.eye(len(layer.bias))
    gain = np.linalg.solve(of_x, layer.weight.T).T
    mean = (of.data.x - layer.bias) @ gain.T
    covariance = np.eye(len(gain)) - gain @ layer.weight.T
    return Exact(log_evidence, MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance)))


def traced(program: Any, data: Any, of: Problem) -> Any:
    """The trace of one of Pyro's programs, which finds no parameters of another one in the store."""
    pyro.clear_param_store()
    return pyro.poutine.trace(program).get_trace(data, of.prior, of.params)


def guide_of(of: Problem) -> MultivariateNormal:
    """What the guide draws from, in Pyro: the two sites stacked."""
    trace = traced(of.zoo.guide.pyro, of.data, of)
    sites = [trace.nodes[name]["fn"].base_dist for name in ("first", "second")]
    loc = torch.cat([site.loc for site in sites], -1).detach()
    scale = torch.cat([site.scale for site in sites], -1).detach()
    return MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))


@pytest.mark.parametrize(("num_first", "num_latents"), [(1, 1), (2, 1), (1, 3)])
def test_the_bound_falls_short_of_probabilistic_pca_by_the_divergence_from_the_posterior(
    num_first: int, num_latents: int
) -> None:
    for seed in range(3):
        of = linear(num_first, num_latents, seed)
        truth = exact(of)
        short = kl_divergence(guide_of(of), truth.posterior).numpy()
        assert (short > 0.01).all()
        for rows in (of.bounds, of.log_weights):
            np.testing.assert_allclose(expected(rows, of, 2) + short, truth.log_evidence, rtol=0, atol=1e-10)


def at_the_posterior(of: Problem) -> Problem:
    """The problem with directions of the decoder that are orthogonal, and encoders that are the posterior's means.

    The posterior covariance is then diagonal and q may have it: a guide that factorises is exact.
    """
    layer = of.params.theta.decoder["out"]
    orthogonal = np.linalg.qr(layer.weight.T)[0].T * np.linspace(0.5, 2.0, len(layer.weight))[:, None]
    theta = of.params.theta._replace(decoder={"out": Layer(orthogonal, layer.bias)})
    variance = 1.0 / (1.0 + (orthogonal**2).sum(1) / np.exp(2.0 * theta.noise_log_scale))
    slope = variance * orthogonal.T / np.exp(2.0 * theta.noise_log_scale)
    first = of.zoo.spec.num_first

    def encoder(here: slice) -> dict[str, Layer]:
        weight = np.concatenate([slope[:, here], np.zeros_like(slope[:, here])], 1)
        return {"out": Layer(weight, np.concatenate([-layer.bias @ slope[:, here], 0.5 * np.log(variance[here])]))}

    phi = of.params.phi._replace(first_encoder=encoder(slice(None, first)), second_encoder=encoder(slice(first, None)))
    return of._replace(params=lz.Params(theta, phi))


def test_with_orthogonal_directions_every_draw_can_be_the_log_likelihood() -> None:
    of = at_the_posterior(linear(2, 1))
    log_evidence = exact(of).log_evidence
    for seed in range(3):
        np.testing.assert_allclose(of.log_weights(of.noise(seed)), log_evidence, rtol=0, atol=1e-10)
    np.testing.assert_allclose(expected(of.bounds, of, 2), log_evidence, rtol=0, atol=1e-10)


def test_at_the_posterior_the_gradient_is_that_of_the_log_likelihood() -> None:
    """There the divergence is least, so that its slope is zero: that of the evidence is by probabilistic PCA's own."""
    of = at_the_posterior(linear(2, 1))
    noise, weights = nodes(of, 2)
    draws = [leaves(of.value(each)[1]) for each in noise]
    found = {name: sum(weight * draw[name] for weight, draw in zip(weights, draws, strict=True)) for name in draws[0]}
    for name, slope in found.items():
        if name.startswith("phi."):
            np.testing.assert_allclose(slope, 0.0, rtol=0, atol=1e-10)
    layer, pca = of.params.theta.decoder["out"], lz.get("probabilistic_pca", num_latents=3)
    at = lz.Params(pca.Theta(layer.weight.T, layer.bias, of.params.theta.noise_log_scale), pca.Phi())
    data, form = pca.Data(of.data.x), pca.closed_form
    wanted = form.elbo_gradient(form.e_step(at, data, pca.Prior(), pca.spec), at, pca.Prior(), pca.spec).theta
    np.testing.assert_allclose(found["theta.decoder.out.weight"], wanted.weight.T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["theta.decoder.out.bias"], wanted.loc, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["theta.noise_log_scale"], wanted.noise_log_scale, rtol=0, atol=1e-10)


def test_at_its_best_the_bound_is_the_likelihood_of_probabilistic_pca() -> None:
    """Climbed by the hand-derived gradient at exact nodes: the directions of y and z end orthogonal, and q exact."""
    start = problem(num_rows=30, num_features=5, num_first=1, num_latents=1, hidden=(), likelihood="learned_gaussian")
    x = start.data.x @ np.random.default_rng(5).normal(size=(5, 5))
    start = start._replace(data=start.zoo.Data(x))
    noise, weights = nodes(start, 2)
    pca = lz.get("probabilistic_pca", num_latents=2)
    best = lz.fit(pca, pca.Data(x), progress=False).elbo

    def unpacked(numbers: np.ndarray) -> Problem:
        parts = iter(np.split(numbers, np.cumsum([np.size(leaf) for leaf in leaves(start.params).values()])))
        return start._replace(params=map_leaves(lambda _, leaf: next(parts).reshape(np.shape(leaf)), start.params))

    def negative(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        draws = [unpacked(numbers).value(each) for each in noise]
        value = sum(weight * each for weight, (each, _) in zip(weights, draws, strict=True))
        assert value < best + 1e-8  # never exceeded, on the way either
        return -value, -sum(weight * packed(slope) for weight, (_, slope) in zip(weights, draws, strict=True))

    def packed(params: lz.Params) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in leaves(params).values()])

    options = {"maxiter": 3000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 40}
    found = optimize.minimize(negative, packed(start.params), jac=True, method="L-BFGS-B", options=options)
    assert -found.fun == pytest.approx(best, rel=0, abs=1e-6)
    first, second = unpacked(found.x).params.theta.decoder["out"].weight
    assert abs(first @ second) < 1e-3 * np.linalg.norm(first) * np.linalg.norm(second)


# --- the two latents stacked: a VAE ---------------------------------------------------------------------------------


def stacked(of: Problem, posterior: str) -> Problem:
    """The VAE of both latents stacked, with one encoder whose hidden layers hold those of the two side by side.

    posterior: of the VAE. A "full" one has zeros where the two would depend on one another.
    """
    spec = of.zoo.spec
    size = spec.num_first + spec.num_latents
    zoo = lz.get(
        "vae",
        num_latents=size,
        hidden=tuple(2 * units for units in spec.hidden),
        likelihood=spec.likelihood,
        posterior=posterior,
    )
    first, second = of.params.phi
    encoder = {name: side_by_side(first[name], second[name], name == next(iter(first))) for name in first}
    # The outputs are now: means and log scales of the first, means and log scales of the second.
    first_loc, first_scale = np.split(np.arange(2 * spec.num_first), 2)
    second_loc, second_scale = np.split(2 * spec.num_first + np.arange(2 * spec.num_latents), 2)
    loc, scale = np.concatenate([first_loc, second_loc]), np.concatenate([first_scale, second_scale])
    out = encoder["out"]
    weight, bias = out.weight[:, scale], out.bias[scale]
    if posterior == "full":
        weight = (weight[:, :, None] * np.eye(size)).reshape(len(weight), -1)
        bias = (bias[:, None] * np.eye(size)).reshape(-1)
    encoder["out"] = Layer(np.concatenate([out.weight[:, loc], weight], 1), np.concatenate([out.bias[loc], bias]))
    theta = zoo.Theta(*of.params.theta)
    decoder = theta.decoder
    if spec.hidden:  # units of the decoder that nothing follows, to have as many as the encoder
        idle = np.zeros_like(decoder["out"].weight)
        hidden = Layer(*(np.concatenate([each, each], -1) for each in decoder["hidden0"]))
        decoder = {"hidden0": hidden, "out": Layer(np.concatenate([decoder["out"].weight, idle]), decoder["out"].bias)}
    params = lz.Params(theta._replace(decoder=decoder), zoo.Phi(encoder))
    return Problem(zoo, zoo.Data(of.data.x), zoo.Prior(*of.prior), zoo.check_params(params))


def side_by_side(first: Layer, second: Layer, shares_inputs: bool) -> Layer:
    bias = np.concatenate([first.bias, second.bias])
    if shares_inputs:
        return Layer(np.concatenate([first.weight, second.weight], 1), bias)
    zero = np.zeros((len(first.weight), second.weight.shape[1])), np.zeros((len(second.weight), first.weight.shape[1]))
    return Layer(np.block([[first.weight, zero[0]], [zero[1], second.weight]]), bias)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("hidden", [(5,), ()])
@every_likelihood
def test_it_is_a_vae_of_both_latents_stacked(likelihood: str, hidden: tuple[int, ...], posterior: str) -> None:
    of = problem(num_first=2, num_latents=3, hidden=hidden, likelihood=likelihood)
    vae, noise = stacked(of, posterior), of.noise()
    form, both = vae.zoo.closed_form, {"latent": np.concatenate([noise["first"], noise["second"]], -1)}
    value, gradient = of.value(noise)
    value_of_vae, gradient_of_vae = form.value_and_gradient(*vae.args, both, vae.zoo.spec)
    assert value == pytest.approx(value_of_vae, rel=0, abs=1e-10)
    for rows in ("log_weights", "bounds"):
        wanted = getattr(form, rows)(*vae.args, both, vae.zoo.spec)
        np.testing.assert_allclose(getattr(of, rows)(noise), wanted, rtol=0, atol=1e-10)

    # Stacking is linear in the parameters: a move of ours is a move of the VAE's, along which both climb alike.
    for seed in range(5):
        rng = np.random.default_rng(seed)
        move = map_leaves(lambda _, leaf, rng=rng: rng.normal(size=np.shape(leaf)), of.params)
        of_vae = stacked(of._replace(params=move), posterior).params
        assert dot(gradient, move) == pytest.approx(dot(gradient_of_vae, of_vae), rel=0, abs=1e-10)


def dot(gradient: lz.Params, move: lz.Params) -> float:
    return sum(leaves(map_trees(lambda slope, step: (slope * step).sum(), gradient, move)).values())


@every_likelihood
def test_exchanging_the_latents_changes_nothing(likelihood: str) -> None:
    """Names apart they are alike: their encoders, their noise and their rows of the decoder change places."""
    of = problem(num_first=2, num_latents=3, likelihood=likelihood)
    zoo = lz.get("two_latent_vae", num_first=3, num_latents=2, hidden=(5,), likelihood=likelihood)
    decoder, noise = of.params.theta.decoder, of.noise()
    hidden = decoder["hidden0"]
    turned = {**decoder, "hidden0": Layer(np.roll(hidden.weight, -2, axis=0), hidden.bias)}
    params = lz.Params(of.params.theta._replace(decoder=turned), zoo.Phi(*of.params.phi[::-1]))
    other = Problem(zoo, of.data, of.prior, params)
    swapped = {"first": noise["second"], "second": noise["first"]}
    np.testing.assert_allclose(other.log_weights(swapped), of.log_weights(noise), rtol=0, atol=1e-12)
    value, gradient = of.value(noise)
    value_of_other, gradient_of_other = other.value(swapped)
    assert value_of_other == pytest.approx(value, rel=0, abs=1e-11)
    by_encoder = gradient_of_other.phi.first_encoder["out"].weight
    np.testing.assert_allclose(by_encoder, gradient.phi.second_encoder["out"].weight, rtol=0, atol=1e-12)


# --- one coordinate each: quadrature ----------------------------------------------------------------------------------


def small(likelihood: str) -> Problem:
    """A problem of one coordinate each, whose q the grid below holds."""
    of = problem(num_rows=3, num_first=1, num_latents=1, likelihood=likelihood)
    return of._replace(params=of.params._replace(phi=map_leaves(lambda _, leaf: 0.4 * leaf, of.params.phi)))


class Truth(NamedTuple):
    """Of each row, by the trapezoid rule on a fine grid: the log evidence, and KL(q || posterior)."""

    log_evidence: np.ndarray
    divergence: np.ndarray


def by_quadrature(of: Problem) -> Truth:
    """Return the truth by the densities of Pyro's model and guide at the points of a grid."""
    line = torch.linspace(-12.0, 12.0, 401, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    area = float(line[1] - line[0]) ** 2
    values = {"first": points[:, :1], "second": points[:, 1:]}
    found = []
    for index in range(len(of.data.x)):
        rows = of.zoo.Data(np.repeat(of.data.x[index : index + 1], len(points), 0))
        log_joint, log_q = (
            log_density(program, rows, of, values) for program in (of.zoo.model.pyro, of.zoo.guide.pyro)
        )
        log_evidence = logsumexp(log_joint) + np.log(area)
        q = np.exp(log_q)
        assert q.sum() * area == pytest.approx(1.0, abs=1e-12)
        found.append((log_evidence, (q * (log_q - log_joint + log_evidence)).sum() * area))
    return Truth(*np.array(found).T)


def log_density(program: Any, rows: Any, of: Problem, values: dict[str, torch.Tensor]) -> np.ndarray:
    """The log density of each row in one of Pyro's programs, its latent sites at these values."""
    trace = traced(pyro.poutine.condition(program, data=values), rows, of)
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["name"] != "rows"]
    return sum(site["log_prob"] for site in sites).detach().numpy()


@every_likelihood
def test_the_bound_and_the_divergence_from_the_posterior_are_the_evidence(likelihood: str) -> None:
    of = small(likelihood)
    truth = by_quadrature(of)
    assert (truth.divergence > 0.001).all()
    for rows in (of.bounds, of.log_weights):
        np.testing.assert_allclose(expected(rows, of, 80) + truth.divergence, truth.log_evidence, rtol=0, atol=1e-10)


@every_likelihood
def test_more_particles_come_closer_to_the_evidence(likelihood: str) -> None:
    """L_1 <= L_2 <= log p(x), each an exact expectation over the noise, with a gap that is no rounding."""
    of = small(likelihood)
    noise, weights = nodes(of, 30)
    log_weights = np.array([of.log_weights(each) for each in noise])
    first = weights @ log_weights
    pairs = np.logaddexp(log_weights[:, None], log_weights[None]) - np.log(2.0)
    second = np.einsum("i,j,ijn->n", weights, weights, pairs)
    assert (first + 1e-4 < second).all()
    assert (second + 1e-4 < by_quadrature(of).log_evidence).all()


# --- one draw ---------------------------------------------------------------------------------------------------------


@every_likelihood
def test_value_and_log_weights_are_the_same_draw(likelihood: str) -> None:
    of = problem(num_first=2, num_latents=1, likelihood=likelihood)
    assert of.value(of.noise())[0] == pytest.approx(of.log_weights(of.noise()).sum(), rel=1e-14)


@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
@pytest.mark.parametrize("likelihood", ["gaussian", "learned_gaussian"])
def test_the_gradient_is_that_of_a_complex_step(likelihood: str, hidden: tuple[int, ...]) -> None:
    of = problem(num_first=2, num_latents=1, likelihood=likelihood, hidden=hidden)
    noise = of.noise()
    found = leaves(of.value(noise)[1])
    assert set(found) == set(leaves(of.params))
    for name, index, step in every_entry(of.params):
        slope = of._replace(params=step(1e-30j)).log_weights(noise).sum().imag / 1e-30
        assert found[name][index] == pytest.approx(slope, rel=1e-11, abs=1e-11), (name, index)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """The logistic function has no complex step here: differences of the fourth order have its place."""
    of = problem(num_first=2, num_latents=1, likelihood="bernoulli")
    noise = of.noise()
    found, width = leaves(of.value(noise)[1]), 1e-3
    for name, index, step in every_entry(of.params):
        at = {count: of._replace(params=step(count * width)).value(noise)[0] for count in (-2, -1, 1, 2)}
        slope = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12.0 * width)
        assert found[name][index] == pytest.approx(slope, rel=1e-8, abs=1e-8), (name, index)


def every_entry(params: lz.Params) -> Iterator[tuple[str, tuple[int, ...], Callable[[Any], lz.Params]]]:
    """Yield the name and index of every number of the parameters, with a function that moves it alone."""

    def moved(name: str, index: tuple[int, ...], size: Any) -> lz.Params:
        other = np.array(leaves(params)[name] + 0.0 * size)
        other[index] += size
        return map_leaves(lambda path, leaf: other if path == name else leaf, params)

    for name, leaf in leaves(params).items():
        for index in np.ndindex(np.shape(leaf)):
            yield name, index, functools.partial(moved, name, index)


@every_likelihood
def test_rows_add_up_and_minibatches_average_to_the_whole(likelihood: str) -> None:
    of = problem(num_rows=6, likelihood=likelihood)
    noise = of.noise()
    value, gradient = of.value(noise)
    parts = []
    for pair in itertools.combinations(range(6), 2):
        rows = list(pair)
        part = of._replace(data=take_rows(of.data, rows))
        held = {name: each[rows] for name, each in noise.items()}
        np.testing.assert_allclose(part.log_weights(held), of.log_weights(noise)[rows], rtol=1e-12)
        np.testing.assert_allclose(part.bounds(held), of.bounds(noise)[rows], rtol=1e-12)
        parts.append(part.value(held))
    assert 3.0 * np.mean([each for each, _ in parts]) == pytest.approx(value, rel=1e-12)
    mean = map_trees(lambda *each: 3.0 * np.mean(each, axis=0), *(slope for _, slope in parts))
    for name, leaf in leaves(gradient).items():
        np.testing.assert_allclose(leaves(mean)[name], leaf, rtol=0, atol=1e-11, err_msg=name)


def test_the_divergences_are_the_libraries() -> None:
    of = problem(num_first=2, num_latents=3)
    size = sum((of.zoo.spec.num_first, of.zoo.spec.num_latents))
    zero = torch.zeros(size, dtype=torch.float64)
    wanted = kl_divergence(guide_of(of), MultivariateNormal(zero, torch.eye(size, dtype=torch.float64))).numpy()
    q = closed_form.posterior(of.params, of.data, of.zoo.spec)
    np.testing.assert_allclose(q.kl(), wanted, rtol=1e-12)


def test_predictions_are_moments_of_the_guide() -> None:
    of = problem(num_first=2, num_latents=3, likelihood="bernoulli")
    found = closed_form.predict(*of.args, of.zoo.spec)
    q = guide_of(of)
    for prefix, part in (("first", slice(None, 2)), ("second", slice(2, None))):
        np.testing.assert_allclose(found[prefix], q.mean.numpy()[:, part], rtol=1e-12)
        np.testing.assert_allclose(found[f"{prefix}_sd"], q.stddev.numpy()[:, part], rtol=1e-12)
    at_means = {"first": torch.from_numpy(found["first"]), "second": torch.from_numpy(found["second"])}
    program = pyro.poutine.condition(of.zoo.model.pyro, data=at_means)
    trace = traced(program, of.data, of)
    np.testing.assert_allclose(found["x"], trace.nodes["x"]["fn"].mean.detach().numpy(), rtol=1e-12)
