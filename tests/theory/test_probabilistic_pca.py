"""Probabilistic PCA against what is known without its closed form: normal densities, numerical maxima, scikit-learn."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.distributions import MultivariateNormal, kl_divergence

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.automatic import Pair, backend
from latentzoo.inference.closed_form import probabilistic_pca as closed_form
from latentzoo.inference.expectations import Integrand
from latentzoo.models.language.contract import leaves, map_leaves, take_rows
from latentzoo.models.language.ppl import LIBRARIES
from latentzoo.models.probabilistic_pca import directions


class Problem(NamedTuple):
    """A model with data and parameters far from any optimum."""

    zoo: Any
    data: Any
    params: lz.Params

    @property
    def args(self) -> tuple[lz.Params, Any, Any, Any]:
        return self.params, self.data, self.zoo.Prior(), self.zoo.spec


def problem(
    num_latents: int = 2, missing: float = 0.0, num_rows: int = 9, num_features: int = 5, seed: int = 0
) -> Problem:
    """Draw a problem; missing: the part of the cells that are. One row then has none left, and one has them all."""
    rng = np.random.default_rng(seed)
    zoo = lz.get("probabilistic_pca", num_latents=num_latents)
    x = rng.normal(size=(num_rows, 3)) @ rng.normal(size=(3, num_features)) + rng.normal(size=(num_rows, num_features))
    if missing:
        x[rng.random(x.shape) < missing] = np.nan
        x[1], x[2] = np.nan, rng.normal(size=num_features)
    theta = zoo.Theta(rng.normal(size=(num_features, num_latents)), rng.normal(size=num_features), np.array(-0.3))
    return Problem(zoo, zoo.Data(x), lz.Params(theta, zoo.Phi()))


def free(of: Problem, seed: int = 1) -> Problem:
    """Return the problem with a q(latent) of its own for each row, away from the optimum."""
    rng, (num_rows, size) = np.random.default_rng(seed), (len(of.data.x), of.zoo.spec.num_latents)
    phi = of.zoo.Phi(rng.normal(size=(num_rows, size)), 0.5 * rng.normal(size=(num_rows, size, size)) - 0.5)
    return of._replace(params=of.params._replace(phi=phi))


def e_step(of: Problem) -> closed_form.Stats:
    return closed_form.e_step(*of.args)


def bound(of: Problem) -> float:
    _, _, prior, spec = of.args
    return float(closed_form.elbo(e_step(of), of.params, prior, spec))


def update(of: Problem) -> Problem:
    _, _, prior, spec = of.args
    return of._replace(params=closed_form.m_step(e_step(of), of.params, prior, spec))


def gradient(of: Problem) -> dict[str, np.ndarray]:
    params, data, prior, spec = of.args
    found = leaves(closed_form.elbo_gradient(e_step(of), params, prior, spec))
    return found | (leaves(closed_form.local_gradient(params, data, prior, spec)) if leaves(params.phi) else {})


every_problem = pytest.mark.parametrize("num_latents", [1, 3])
every_missing = pytest.mark.parametrize("missing", [0.0, 0.3])


# --- the log evidence -------------------------------------------------------------------------------------------------


def log_densities(theta: Any, x: np.ndarray) -> np.ndarray:
    """The log density of each row's observed cells, by scipy: a normal with the rows and columns that are observed."""
    covariance = theta.weight @ theta.weight.T + np.exp(2.0 * theta.noise_log_scale) * np.eye(len(theta.loc))
    found = np.zeros(len(x))
    for index, row in enumerate(x):
        seen = ~np.isnan(row)
        if seen.any():
            normal = stats.multivariate_normal(theta.loc[seen], covariance[np.ix_(seen, seen)])
            found[index] = normal.logpdf(row[seen])
    return found


@every_problem
@every_missing
def test_the_bound_at_its_optimum_is_the_log_density_of_normals(num_latents: int, missing: float) -> None:
    for seed in range(3):
        of = problem(num_latents, missing, seed=seed)
        expected = log_densities(of.params.theta, of.data.x)
        np.testing.assert_allclose(closed_form.log_predictive(*of.args), expected, rtol=1e-11, atol=1e-11)
        assert bound(of) == pytest.approx(expected.sum(), rel=1e-12)
        if missing:
            assert expected[1] == 0.0  # the row without any cell


def test_the_log_likelihood_is_at_the_globals_that_are_given() -> None:
    of, other = problem(2, 0.3), problem(2, seed=7).params.theta
    _, data, prior, spec = of.args
    assert (closed_form.log_likelihood({}, *of.args) == closed_form.log_predictive(*of.args)).all()
    given = {"weight": other.weight, "loc": other.loc, "noise_variance": np.exp(2.0 * other.noise_log_scale)}
    found = closed_form.log_likelihood(given, of.params, data, prior, spec)
    np.testing.assert_allclose(found, log_densities(other, data.x), rtol=1e-11, atol=1e-11)


def posterior(theta: Any, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and covariance of p(latent | a row), by conditioning the joint normal of both."""
    seen = ~np.isnan(row)
    weight = theta.weight[seen]
    covariance = weight @ weight.T + np.exp(2.0 * theta.noise_log_scale) * np.eye(seen.sum())
    gain = np.linalg.solve(covariance, weight).T
    return gain @ (row - theta.loc)[seen], np.eye(weight.shape[1]) - gain @ weight


def kl(of: Problem) -> float:
    """KL(q(latent) || p(latent | x)) over all rows, by torch."""
    theta, phi = of.params.theta, of.params.phi
    total = 0.0
    for row, mean, raw in zip(of.data.x, phi.latent_mean, phi.latent_raw_scale, strict=True):
        factor = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))
        exact = MultivariateNormal(*map(torch.from_numpy, posterior(theta, row)))
        mine = MultivariateNormal(torch.from_numpy(mean), scale_tril=torch.from_numpy(factor))
        total += kl_divergence(mine, exact).item()
    return total


@every_problem
@every_missing
def test_a_free_bound_and_its_kl_are_the_evidence(num_latents: int, missing: float) -> None:
    """At any q; this fixes every constant. Where only one half of q is free, the other is at its optimum."""
    of = free(problem(num_latents, missing))
    params, data, prior, spec = of.args
    evidence = log_densities(params.theta, data.x).sum()
    distance = kl(of)
    assert distance > 1.0
    assert bound(of) + distance == pytest.approx(evidence, rel=1e-12)

    optimum = closed_form.local_optimum(params, data, prior, spec).phi
    for half in ("latent_mean", "latent_raw_scale"):
        written = of._replace(params=params._replace(phi=params.phi._replace(**{half: getattr(optimum, half)})))
        left_out = of._replace(params=params._replace(phi=params.phi._replace(**{half: None})))
        assert bound(of) < bound(written) < evidence
        assert bound(left_out) == pytest.approx(bound(written), rel=1e-12)
        assert bound(written) + kl(written) == pytest.approx(evidence, rel=1e-12)
    best = of._replace(params=params._replace(phi=optimum))
    assert kl(best) == pytest.approx(0.0, abs=1e-10)
    assert bound(best) == pytest.approx(evidence, rel=1e-12)


@every_missing
def test_the_bound_is_tight_only_at_the_parameters_that_its_q_is_of(missing: float) -> None:
    """After an update of theta alone F rises, and lies below the likelihood there by KL(q_t || posterior)."""
    of = problem(2, missing)
    before = of._replace(params=closed_form.local_optimum(*of.args))
    assert bound(before) == pytest.approx(log_densities(of.params.theta, of.data.x).sum(), rel=1e-12)
    moved = update(before).params.theta
    after = before._replace(params=before.params._replace(theta=moved))
    evidence = log_densities(moved, of.data.x).sum()
    assert bound(before) < bound(after) < evidence - 1e-3
    assert bound(after) + kl(after) == pytest.approx(evidence, rel=1e-12)
    # It is the best theta for this q.
    params, _, prior, spec = after.args
    best = leaves(closed_form.elbo_gradient(e_step(after), params, prior, spec))
    assert max(np.abs(leaf).max() for leaf in best.values()) < 1e-10


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_draw_of_the_guide_is_the_log_likelihood(library: str) -> None:
    """q is the posterior: log p(x, latent) - log q(latent) is log p(x) at every draw; missing cells add nothing."""
    of = problem(2, 0.3)
    auto = backend(library)
    with auto.precision():
        pair = Pair(of.zoo.model.on(library), of.zoo.guide.on(library), (of.data, of.zoo.Prior(), of.params))
        integrand = Integrand(auto, pair)
        draws = integrand.draw(leaves(of.params), 3, seed=0)
        values, slope = integrand.elbos(leaves(of.params), draws, np.full(3, 1.0 / 3.0))
    np.testing.assert_allclose(values, log_densities(of.params.theta, of.data.x).sum(), rtol=1e-12)
    for name, leaf in gradient(of).items():  # no NaN comes through the mask
        np.testing.assert_allclose(slope[name], leaf, rtol=0, atol=1e-10 * np.abs(leaf).max(), err_msg=name)


# --- the gradient -----------------------------------------------------------------------------------------------------


def differences(function: Any, at: np.ndarray, step: float = 2e-3) -> np.ndarray:
    """The gradient by central differences of the sixth order."""
    shifts = {1: 45.0, 2: -9.0, 3: 1.0}
    found = np.empty(at.size)
    for index, unit in enumerate(np.eye(at.size)):
        ends = [
            weight * (function(at + k * step * unit) - function(at - k * step * unit)) for k, weight in shifts.items()
        ]
        found[index] = sum(ends) / (60.0 * step)
    return found


def flat(theta: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in theta])


def unflat(of: Problem, vector: np.ndarray) -> Any:
    num_features, size = of.params.theta.weight.shape
    weight, loc, noise = np.split(vector, [num_features * size, num_features * (size + 1)])
    return of.zoo.Theta(weight.reshape(num_features, size), loc, noise[0])


@every_problem
@every_missing
def test_the_gradient_is_that_of_normal_densities(num_latents: int, missing: float) -> None:
    of = problem(num_latents, missing)
    expected = differences(lambda at: log_densities(unflat(of, at), of.data.x).sum(), flat(of.params.theta))
    found = flat(of.zoo.Theta(**{name.removeprefix("theta."): leaf for name, leaf in gradient(of).items()}))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@every_missing
def test_the_gradient_is_that_of_jax(missing: float) -> None:
    """Of theta, and of q where it is free; the rows are traced, too."""
    of = problem(2, missing)
    with jax.enable_x64(True):
        value = jax.jit(jax.value_and_grad(functools.partial(bound_of, of.zoo)))
        for each in (of, free(of)):
            params, data = (map_leaves(lambda _, leaf: jnp.asarray(leaf), tree) for tree in (each.params, each.data))
            total, slope = value(params, data)
            assert float(total) == pytest.approx(bound(each), rel=1e-12)
            expected, found = leaves(slope), gradient(each)
            assert set(found) == set(expected)
            for name in expected:
                size = max(np.abs(expected[name]).max(), 1.0)
                np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12 * size, err_msg=name)


@every_missing
def test_the_gradient_by_half_of_q_is_that_of_the_whole(missing: float) -> None:
    """Where the other half is at its optimum, written out or not."""
    of = free(problem(2, missing))
    params, data, prior, spec = of.args
    optimum = closed_form.local_optimum(params, data, prior, spec).phi
    for half in ("latent_mean", "latent_raw_scale"):
        one, other = (
            of._replace(params=params._replace(phi=params.phi._replace(**{half: value})))
            for value in (getattr(optimum, half), None)
        )
        whole, found = gradient(one), gradient(other)
        assert set(whole) - set(found) == {f"phi.{half}"}
        np.testing.assert_allclose(whole[f"phi.{half}"], 0.0, atol=1e-10)
        for name, leaf in found.items():
            np.testing.assert_allclose(leaf, whole[name], rtol=0, atol=1e-10, err_msg=name)


def bound_of(zoo: Any, params: lz.Params, data: Any) -> Any:
    stats_ = closed_form.e_step(params, data, zoo.Prior(), zoo.spec)
    return closed_form.elbo(stats_, params, zoo.Prior(), zoo.spec)


@every_missing
def test_jax_gives_the_same_statistics_and_updates(missing: float) -> None:
    of = problem(2, missing)
    with jax.enable_x64(True):
        params, data = (map_leaves(lambda _, leaf: jnp.asarray(leaf), tree) for tree in (of.params, of.data))
        found = jax.jit(closed_form.e_step, static_argnums=3)(params, data, of.zoo.Prior(), of.zoo.spec)
        moved = jax.jit(closed_form.m_step, static_argnums=3)(found, params, of.zoo.Prior(), of.zoo.spec)
    expected = e_step(of)
    for name, one, other in zip(expected._fields, found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11, err_msg=name)
    for name, leaf in leaves(update(of).params).items():
        np.testing.assert_allclose(leaves(moved)[name], leaf, rtol=1e-10, atol=1e-10, err_msg=name)


# --- maxima -----------------------------------------------------------------------------------------------------------


def maximised(of: Problem, num_starts: int = 4) -> list[float]:
    """The log likelihoods at which scipy's BFGS ends, on scipy's densities, from random starts."""
    # Rows that observe the same cells are one call.
    patterns, group = np.unique(~np.isnan(of.data.x), axis=0, return_inverse=True)
    blocks = [(seen, of.data.x[group.ravel() == index][:, seen]) for index, seen in enumerate(patterns) if seen.any()]

    def loss(vector: np.ndarray) -> float:
        theta = unflat(of, vector)
        covariance = theta.weight @ theta.weight.T + np.exp(2.0 * theta.noise_log_scale) * np.eye(len(theta.loc))
        return -sum(
            float(np.sum(stats.multivariate_normal.logpdf(x, theta.loc[seen], covariance[np.ix_(seen, seen)])))
            for seen, x in blocks
        )

    rng, size = np.random.default_rng(0), flat(of.params.theta).size
    starts = [rng.normal(size=size) for _ in range(num_starts)]
    return [-optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-4}).fun for start in starts]


@pytest.mark.parametrize("num_latents", [1, 2])
def test_exact_is_the_maximum_that_is_found_numerically(num_latents: int) -> None:
    of = problem(num_latents, num_rows=12, num_features=4)
    fit = lz.fit(of.zoo, of.data, progress=False)
    assert fit.label == "exact"
    assert fit.converged
    ends = maximised(of)
    assert max(ends) == pytest.approx(fit.elbo, rel=1e-7)
    assert max(ends) <= fit.elbo + 1e-9


@pytest.mark.parametrize(("num_rows", "num_features", "num_latents"), [(40, 6, 1), (40, 6, 5), (8, 20, 3)])
def test_exact_is_that_of_scikit_learn(num_rows: int, num_features: int, num_latents: int) -> None:
    """PCA's covariance has N - 1 in the place of N, and its score is the log likelihood there.

    With fewer rows than features it averages the noise over as many directions as there are rows: that is mended here.
    """
    from sklearn import decomposition

    of = problem(num_latents, num_rows=num_rows, num_features=num_features)
    theta = closed_form.exact(None, of.data, of.zoo.Prior(), of.zoo.spec).theta
    peer = decomposition.PCA(num_latents, svd_solver="full").fit(of.data.x)
    peer.noise_variance_ *= (min(num_rows, num_features) - num_latents) / (num_features - num_latents)
    share, noise = (num_rows - 1) / num_rows, np.exp(2.0 * theta.noise_log_scale)
    assert noise == pytest.approx(share * peer.noise_variance_, rel=1e-10)
    covariance = theta.weight @ theta.weight.T + noise * np.eye(num_features)
    np.testing.assert_allclose(covariance, share * peer.get_covariance(), rtol=0, atol=1e-10 * np.abs(covariance).max())
    inflated = theta._replace(
        weight=theta.weight / np.sqrt(share), noise_log_scale=theta.noise_log_scale - 0.5 * np.log(share)
    )
    at_peer = of._replace(params=lz.Params(inflated, of.zoo.Phi()))
    assert bound(at_peer) / num_rows == pytest.approx(peer.score(of.data.x), rel=1e-10)

    found = directions(theta)
    np.testing.assert_allclose(found.variance, share * peer.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.shares, peer.explained_variance_ratio_, rtol=1e-10)
    assert found.variance.sum() / found.shares.sum() == pytest.approx(of.data.x.var(0).sum(), rel=1e-10)
    np.testing.assert_allclose(np.abs(np.diag(peer.components_ @ found.directions)), 1.0, rtol=1e-10)


@pytest.mark.parametrize("num_latents", [1, 2, 4])
def test_em_reaches_the_exact_maximum_from_any_start_and_never_exceeds_it(num_latents: int) -> None:
    zoo = lz.get("probabilistic_pca", num_latents=num_latents)
    data, _ = zoo.simulate(seed=num_latents, num_rows=60)
    best = lz.fit(zoo, data, "exact", progress=False)
    for seed in range(3):
        fit = lz.fit(zoo, data, "em", seed=seed, tol=1e-14, progress=False)
        assert fit.converged
        assert fit.elbo == pytest.approx(best.elbo, rel=1e-10)
        rounding = 1e-12 * abs(best.elbo)
        assert (fit.elbo_trace <= best.elbo + rounding).all()
        assert (np.diff(fit.elbo_trace) >= -rounding).all()
        # W is turned as that of the exact maximum, so that the parameters are the same, too.
        for name, leaf in leaves(best.params.theta).items():
            np.testing.assert_allclose(leaves(fit.params.theta)[name], leaf, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_em_with_missing_cells_reaches_the_maximum_of_the_observed_likelihood(num_latents: int) -> None:
    of = problem(num_latents, 0.25, num_rows=30, num_features=4, seed=3)
    fits = [lz.fit(of.zoo, of.data, "em", seed=seed, tol=1e-13, progress=False) for seed in range(3)]
    assert all(fit.converged and (np.diff(fit.elbo_trace) >= -1e-10).all() for fit in fits)
    best = max(fit.elbo for fit in fits)
    ends = maximised(of)
    assert max(ends) == pytest.approx(best, rel=1e-7)
    assert max(ends) <= best + 1e-9


@every_problem
@every_missing
def test_no_update_lowers_the_likelihood(num_latents: int, missing: float) -> None:
    """From parameters of any size; measured by scipy's densities."""
    for seed in range(5):
        of = problem(num_latents, missing, seed=seed)
        rng = np.random.default_rng(seed)
        theta = map_leaves(lambda _, leaf, rng=rng: leaf * rng.uniform(0.0, 3.0, np.shape(leaf)), of.params.theta)
        of = of._replace(params=lz.Params(theta, of.zoo.Phi()))
        values = []
        for _ in range(4):
            values.append(log_densities(of.params.theta, of.data.x).sum())
            of = update(of)
        assert (np.diff(values) > 0.0).all()


@every_missing
def test_a_fixed_point_is_a_zero_of_the_gradient(missing: float) -> None:
    of = problem(2, missing, num_rows=40)
    fit = lz.fit(of.zoo, of.data, "em", tol=0.0, num_steps=3000, progress=False)
    at_rest = of._replace(params=fit.params)
    assert max(np.abs(leaf).max() for leaf in gradient(at_rest).values()) < 1e-5
    exact = (
        of._replace(params=closed_form.exact(None, of.data, of.zoo.Prior(), of.zoo.spec)) if not missing else at_rest
    )
    moved = update(exact)
    for name, leaf in leaves(exact.params.theta).items():
        np.testing.assert_allclose(leaves(moved.params.theta)[name], leaf, rtol=0, atol=1e-6, err_msg=name)
    if not missing:
        assert max(np.abs(leaf).max() for leaf in gradient(exact).values()) < 1e-10


def test_missing_at_random_is_recovered() -> None:
    """Twice the log likelihood ratio of the fit to the truth is chi-squared: it exceeds this bound once in a million.

    The power: parameters off by 5 % everywhere would exceed it by far, as the second half shows.
    """
    zoo = lz.get("probabilistic_pca")
    rng = np.random.default_rng(0)
    truth = lz.Params(zoo.Theta(rng.normal(size=(5, 2)), rng.normal(size=5), np.array(-0.5)), zoo.Phi())
    data, _ = zoo.simulate(seed=2, num_rows=4000, params=truth)
    data = zoo.Data(np.where(rng.random(data.x.shape) < 0.3, np.nan, data.x))
    fit = lz.fit(zoo, data, "em", tol=1e-11, progress=False)
    num_free = 5 * 2 + 5 + 1 - 1  # less the rotation in the plane
    most = stats.chi2.isf(1e-6, num_free)
    assert 0.0 < 2.0 * (fit.elbo - zoo.elbo(truth, data, zoo.Prior())) < most
    off = map_leaves(lambda _, leaf: 1.05 * leaf, truth)
    assert 2.0 * (fit.elbo - zoo.elbo(off, data, zoo.Prior())) > 2.0 * most
    found = directions(fit.params.theta).directions
    angles = np.linalg.svd(found.T @ directions(truth.theta).directions)[1]
    assert angles.min() > 0.999


# --- symmetries -------------------------------------------------------------------------------------------------------


@every_missing
def test_a_rotation_of_the_latents_changes_nothing(missing: float) -> None:
    of = problem(3, missing)
    turn = stats.special_ortho_group.rvs(3, random_state=0)
    theta = of.params.theta
    turned = of._replace(params=lz.Params(theta._replace(weight=theta.weight @ turn), of.zoo.Phi()))
    assert bound(turned) == pytest.approx(bound(of), rel=1e-13)
    one, other = (closed_form.predict(*each.args) for each in (of, turned))
    np.testing.assert_allclose(other["latent"], one["latent"] @ turn, rtol=0, atol=1e-12)
    np.testing.assert_allclose(other["x"], one["x"], rtol=0, atol=1e-12)
    for name, leaf in leaves(update(of).params.theta).items():
        np.testing.assert_allclose(leaves(update(turned).params.theta)[name], leaf, rtol=0, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(directions(theta).directions, directions(turned.params.theta).directions, atol=1e-10)


@every_missing
def test_features_and_rows_have_no_order(missing: float) -> None:
    of = problem(2, missing)
    rng, theta = np.random.default_rng(0), of.params.theta
    rows, features = rng.permutation(len(of.data.x)), rng.permutation(len(theta.loc))
    moved = of.zoo.Theta(theta.weight[features], theta.loc[features], theta.noise_log_scale)
    other = Problem(of.zoo, of.zoo.Data(of.data.x[rows][:, features]), lz.Params(moved, of.zoo.Phi()))
    assert bound(other) == pytest.approx(bound(of), rel=1e-13)
    np.testing.assert_allclose(update(other).params.theta.weight, update(of).params.theta.weight[features], atol=1e-10)


@every_missing
def test_the_statistics_of_parts_add_up(missing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of halves, of chunks that the loop makes, and of the chunks inside."""
    of = problem(2, missing, num_rows=50)
    params, data, prior, spec = of.args
    whole = e_step(of)
    halves = accumulate.add(
        closed_form.e_step(params, take_rows(data, part), prior, spec) for part in (slice(0, 17), slice(17, None))
    )
    chunks = accumulate.in_chunks(closed_form.e_step, 7)(params, data, prior, spec)
    own = free(of)
    before, slope = e_step(own), gradient(own)
    predicted = closed_form.predict(*of.args)
    monkeypatch.setattr(closed_form, "CHUNK_NUMBERS", 60)
    inside, after = e_step(of), e_step(own)
    for one, other in ((halves, whole), (chunks, whole), (inside, whole), (after, before)):
        for name, left, right in zip(whole._fields, one, other, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-11, err_msg=name)
    for name, leaf in gradient(own).items():
        np.testing.assert_allclose(leaf, slope[name], rtol=1e-12, atol=1e-11, err_msg=name)
    for name, leaf in closed_form.predict(*of.args).items():
        np.testing.assert_allclose(leaf, predicted[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_rows_that_all_lack_the_same_feature_do_not_depend_on_it() -> None:
    """All rows are then one group, though not a whole one."""
    of = problem(2)
    x = np.where(np.arange(5) == 3, np.nan, of.data.x)
    of = of._replace(data=of.zoo.Data(x))
    expected = log_densities(of.params.theta, x).sum()
    assert bound(of) == pytest.approx(expected, rel=1e-12)
    moved = update(of)
    assert bound(moved) > bound(of)
    assert np.isfinite(closed_form.predict(*moved.args)["x"]).all()


@every_missing
def test_units_and_origin_move_the_parameters_alone(missing: float) -> None:
    """x -> a x + b: the likelihood changes by log a for each observed cell."""
    of = problem(2, missing, num_rows=30)
    fit = lz.fit(of.zoo, of.data, "em", tol=1e-13, progress=False)
    other = lz.fit(of.zoo, of.zoo.Data(1e3 * of.data.x + 1e6), "em", tol=1e-13, progress=False)
    cells = np.count_nonzero(~np.isnan(of.data.x))
    assert other.elbo == pytest.approx(fit.elbo - cells * np.log(1e3), rel=1e-9)
    np.testing.assert_allclose(other.params.theta.weight, 1e3 * fit.params.theta.weight, rtol=0, atol=1.0)
    np.testing.assert_allclose(other.params.theta.loc, 1e3 * fit.params.theta.loc + 1e6, rtol=0, atol=1.0)
