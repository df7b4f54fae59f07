"""The Gaussian mixture against what is known without its derivation: other libraries' densities, sums, identities."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.precision import FORMS
from latentzoo.models.language.contract import leaves, map_leaves, take_rows

TYPES = ["full", "tied", "diag", "spherical"]


def small(covariance_type, num_components=2, num_rows=6, seed=0):
    """Return an entry and a few rows of it, around different centres."""
    zoo = lz.get("gaussian_mixture", num_components=num_components, covariance_type=covariance_type)
    rng = np.random.default_rng(seed)
    return zoo, zoo.Data(rng.normal(size=(num_rows, 2)) * [1.0, 3.0] + 4.0 * rng.integers(2, size=(num_rows, 1)))


def jittered(params, seed):
    rng = np.random.default_rng(seed)
    return map_leaves(lambda _, leaf: leaf + 0.3 * rng.normal(size=np.shape(leaf)), params)


def sites(zoo, data, prior, params):
    """Return the weights, centres and covariance matrices that point parameters stand for, from the program itself."""
    held = zoo.points(data, prior, params)
    precision, size = held["precision"], data.x.shape[1]
    each = {
        "full": lambda k: np.linalg.inv(precision[k]),
        "tied": lambda k: np.linalg.inv(precision),
        "diag": lambda k: np.diag(1.0 / precision[k]),
        "spherical": lambda k: np.eye(size) / precision[k],
    }[zoo.spec.covariance_type]
    return held["weights"], held["loc"], [each(k) for k in range(zoo.spec.num_components)], precision


def log_prior(prior, spec, weights, loc, precision):
    """Return the log density of the prior by SciPy's distributions."""
    total, size = stats.dirichlet(prior.weights_concentration).logpdf(weights), loc.shape[1]
    shape, rate = float(prior.precision_shape), prior.precision_rate
    for k in range(len(weights)):
        own = precision if spec.covariance_type == "tied" else precision[k]
        if k == 0 or spec.covariance_type != "tied":
            total += (
                stats.wishart(2.0 * shape, np.linalg.inv(2.0 * rate)).logpdf(own)
                if spec.is_matrix
                else stats.gamma(shape, scale=1.0 / rate).logpdf(own).sum()
            )
        matrix = own if spec.is_matrix else np.diag(own * np.ones(size))
        covariance = np.linalg.inv(prior.loc_strength * matrix)
        total += stats.multivariate_normal(prior.loc_mean, covariance).logpdf(loc[k])
    return total


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_likelihood_is_the_sum_over_all_assignments(covariance_type):
    zoo, data = small(covariance_type)
    prior = zoo.prior(data)
    params = jittered(zoo.init(data, method="map"), seed=1)
    weights, loc, covariance, precision = sites(zoo, data, prior, params)
    density = [stats.multivariate_normal(loc[k], covariance[k]).logpdf(data.x) + np.log(weights[k]) for k in range(2)]
    rows = range(len(data.x))
    every = itertools.product(range(2), repeat=len(rows))
    expected = logsumexp([sum(density[k][n] for n, k in zip(rows, ks, strict=True)) for ks in every])
    assert zoo.elbo(params, data, zoo.without_priors(prior)) == pytest.approx(expected, abs=1e-10)
    penalised = expected + log_prior(prior, zoo.spec, weights, loc, precision)
    assert zoo.elbo(params, data, prior) == pytest.approx(penalised, abs=1e-9)
    rows_apart = zoo.closed_form.log_predictive(params, data, prior, zoo.spec)
    np.testing.assert_allclose(rows_apart, logsumexp(density, axis=0), rtol=1e-12)


def evidence(zoo, x, prior):
    """Return log p(x) of one component, exact: its mean field is the posterior."""
    if len(x) == 0:
        return 0.0
    params = zoo.init(zoo.Data([[0.0, 1.0], [1.0, 3.0]]), prior, method="cavi")  # from anywhere one step is enough
    stats_ = zoo.closed_form.e_step(params, zoo.Data(x), prior, zoo.spec)
    return zoo.elbo(zoo.closed_form.m_step(stats_, params, prior, zoo.spec), zoo.Data(x), prior)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_component_is_exact(covariance_type):
    """log p(x) = log p(x, globals) - log p(globals | x), whatever the globals; the posterior's density by SciPy's."""
    zoo, data = small(covariance_type, num_components=1)
    prior = zoo.prior(data)
    fit = lz.fit(zoo, data, "cavi", prior=prior, progress=False)
    form, phi = FORMS[covariance_type], fit.params.phi
    posterior = prior._replace(
        loc_mean=phi.loc_mean[0],
        loc_strength=np.exp(phi.loc_log_strength[0]),
        precision_shape=np.exp(np.ravel(phi.precision_log_shape)[0]),
        precision_rate=np.atleast_1d(form.square(phi.precision_raw_rate))[
            0 if covariance_type != "tied" else slice(None)
        ],
    )
    draws = fit.posterior(4, seed=3)
    for index in range(4):
        weights, loc, precision = (draws[site][index] for site in ("weights", "loc", "precision"))
        joint = fit.log_likelihood(data, {site: values[index] for site, values in draws.items()}).sum()
        found = joint + log_prior(prior, zoo.spec, weights, loc, precision)
        found -= log_prior(posterior, zoo.spec, weights, loc, precision)
        assert found == pytest.approx(fit.elbo, abs=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_the_bound_is_below_the_evidence_of_all_assignments(covariance_type):
    zoo, data = small(covariance_type)
    prior = zoo.prior(data, weights_concentration=[1.5, 0.7])
    one = lz.get("gaussian_mixture", num_components=1, covariance_type=covariance_type)
    alone = one.Prior(np.ones(1), *prior[1:])
    every = np.array(list(itertools.product(range(2), repeat=len(data.x))))
    alpha = prior.weights_concentration
    terms = []
    for states in every:
        counts = np.array([(states == k).sum() for k in range(2)])
        # The probability of the assignments alone: Polya's urn, one after another.
        urn, seen = 0.0, np.zeros(2)
        for k in states:
            urn += np.log((alpha[k] + seen[k]) / (alpha.sum() + seen.sum()))
            seen[k] += 1.0
        assert (seen == counts).all()
        terms.append(urn + sum(evidence(one, data.x[states == k], alone) for k in range(2)))
    fits = lz.fit(zoo, data, "cavi", prior=prior, num_restarts=5, progress=False)
    gap = logsumexp(terms) - fits.elbo
    assert 0.0 < gap < 3.0
    # With the assignments held at one, the bound is the joint evidence of that one.
    certain = np.where(np.eye(2)[every[21]] > 0.0, 0.0, -800.0)
    params = fits.params._replace(phi=fits.params.phi._replace(component_logits=certain))
    for _ in range(2):
        stats_ = zoo.closed_form.e_step(params, data, prior, zoo.spec)
        moved = zoo.closed_form.m_step(stats_, params, prior, zoo.spec)
        params = moved._replace(phi=moved.phi._replace(component_logits=certain))
    assert zoo.elbo(params, data, prior) == pytest.approx(terms[21], abs=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_predictive_density_is_a_ratio_of_evidences(covariance_type):
    zoo, data = small(covariance_type, num_components=1)
    prior = zoo.prior(data)
    fit = lz.fit(zoo, data, "cavi", prior=prior, progress=False)
    new = np.array([[0.3, -2.0], [5.0, 9.0]])
    expected = [evidence(zoo, np.vstack([data.x, row]), prior) - evidence(zoo, data.x, prior) for row in new]
    found = zoo.closed_form.log_predictive(fit.params, zoo.Data(new), prior, zoo.spec)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("method", ["em", "map", "cavi"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_end_is_a_stationary_point_and_no_step_falls(covariance_type, method):
    zoo, data = small(covariance_type, num_rows=80)
    fit = lz.fit(zoo, data, method, tol=0.0, num_steps=5000, progress=False)
    assert fit.converged
    steps = np.diff(fit.elbo_trace)
    assert steps.min() >= -1e-11 * abs(fit.elbo)
    form = zoo.closed_form
    found = form.e_step(fit.params, data, fit.prior, zoo.spec)
    gradient = leaves(form.elbo_gradient(found, fit.params, fit.prior, zoo.spec))
    assert max(np.abs(leaf).max() for leaf in gradient.values()) < 1e-4
    start = zoo.init(data, fit.prior, method=method)
    before = leaves(form.elbo_gradient(form.e_step(start, data, fit.prior, zoo.spec), start, fit.prior, zoo.spec))
    assert max(np.abs(leaf).max() for leaf in before.values()) > 1e-1


@pytest.mark.parametrize("method", ["em", "cavi"])
def test_the_e_step_is_tight_where_it_was_made_and_nowhere_else(method):
    zoo, data = small("full", num_rows=40)
    prior = zoo.prior_for(method, zoo.prior(data))
    here = zoo.init(data, prior, method=method)
    moved = zoo.closed_form.m_step(zoo.closed_form.e_step(here, data, prior, zoo.spec), here, prior, zoo.spec)
    q = zoo.closed_form.local_optimum(here, data, prior, zoo.spec).phi.component_logits
    held = {
        name: params._replace(phi=params.phi._replace(component_logits=q))
        for name, params in {"here": here, "moved": moved}.items()
    }
    assert zoo.elbo(held["here"], data, prior) == pytest.approx(zoo.elbo(here, data, prior), abs=1e-10)
    # After the M step the same q is no longer the posterior: the gap is its divergence, row by row.
    gap = zoo.elbo(moved, data, prior) - zoo.elbo(held["moved"], data, prior)
    new = zoo.closed_form.local_optimum(moved, data, prior, zoo.spec).phi.component_logits
    divergence = stats.entropy(np.exp(q), np.exp(new), axis=1).sum()
    assert gap == pytest.approx(divergence, abs=1e-9)
    assert gap > 1e-3


@pytest.mark.parametrize("method", ["map", "cavi"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_labels_mean_nothing_and_halves_add_up(covariance_type, method):
    zoo, data = small(covariance_type, num_components=3, num_rows=30)
    prior = zoo.prior(data, weights_concentration=[1.0, 2.0, 3.0])
    params = jittered(zoo.init(data, prior, method=method), seed=2)
    order = np.array([2, 0, 1])
    shared = ("raw_scale", "precision_log_shape", "precision_raw_rate") if covariance_type == "tied" else ()
    permuted = map_leaves(lambda name, leaf: leaf if name.split(".")[1] in shared else leaf[order], params)
    permuted_prior = prior._replace(weights_concentration=prior.weights_concentration[order])
    assert zoo.elbo(permuted, data, permuted_prior) == pytest.approx(zoo.elbo(params, data, prior), abs=1e-10)
    assert abs(zoo.elbo(permuted, data, prior) - zoo.elbo(params, data, prior)) > 1e-3
    e_step = zoo.closed_form.e_step
    whole = e_step(params, data, prior, zoo.spec)
    halves = [e_step(params, take_rows(data, rows), prior, zoo.spec) for rows in (slice(0, 11), slice(11, None))]
    for found, expected in zip(accumulate.add(iter(halves)), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["em", "map", "cavi"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_gradient_is_that_of_the_hand_derived_bound_in_jax(covariance_type, method):
    import jax
    import jax.numpy as jnp

    zoo, data = small(covariance_type, num_rows=12)
    prior = zoo.prior_for(method, zoo.prior(data))
    params = jittered(zoo.init(data, prior, method=method), seed=4)
    form = zoo.closed_form
    by_hand = leaves(form.elbo_gradient(form.e_step(params, data, prior, zoo.spec), params, prior, zoo.spec))
    with jax.enable_x64(True):
        arrays = [map_leaves(lambda _, leaf: jnp.asarray(leaf), tree) for tree in (data, prior)]

        def bound(params):
            return form.elbo(form.e_step(params, arrays[0], arrays[1], zoo.spec), params, arrays[1], zoo.spec)

        found = leaves(jax.grad(bound)(map_leaves(lambda _, leaf: jnp.asarray(leaf), params)))
    assert set(found) == set(by_hand)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, by_hand[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("method", ["em", "map"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_optima_of_an_optimiser_are_those_of_em(covariance_type, method):
    """SciPy's, from where EM ended and from three starts, on the density that the program itself gives."""
    from scipy.optimize import minimize

    zoo, data = small(covariance_type, num_rows=150)
    fit = lz.fit(zoo, data, method, tol=1e-13, num_steps=5000, num_restarts=10, progress=False)
    starts = [zoo.init(data, fit.prior, seed, method).theta for seed in range(3)]
    start = fit.params.theta
    shapes = [np.shape(leaf) for leaf in start]
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def loss(flat):
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
        return -zoo.elbo(fit.params._replace(theta=zoo.Theta(*parts)), data, fit.prior)

    for begin in (start, *starts):
        found = minimize(loss, np.concatenate([np.ravel(leaf) for leaf in begin]))
        # Its optimum, which may be another one, is one for EM, too.
        parts = [part.reshape(shape) for part, shape in zip(np.split(found.x, cuts), shapes, strict=True)]
        there = fit.params._replace(theta=zoo.Theta(*parts))
        again = lz.fit(zoo, data, method, prior=zoo.prior(data), init=there, tol=1e-13, num_steps=5000, progress=False)
        assert again.elbo == pytest.approx(-found.fun, abs=1e-6)
        assert -found.fun <= fit.elbo + 1e-8 or begin is not start
