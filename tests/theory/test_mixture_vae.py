"""The theory of the autoencoder with a mixture for its prior: by quadrature over one latent coordinate, and SciPy."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, log_softmax, softmax

import latentzoo as lz
from latentzoo.inference.closed_form import mixture_vae as closed_form
from latentzoo.inference.closed_form import vae as vae_form
from latentzoo.models.language.contract import leaves, map_leaves, map_trees, take_rows

ASSIGNMENTS = ["exact", "amortised"]
LIKELIHOODS = ["bernoulli", "gaussian", "learned_gaussian"]

# Nodes of a trapezoid rule for standard normal noise, whose weights these are; smooth integrands are exact to rounding.
EPS = np.linspace(-9.0, 9.0, 2001)
MASS = stats.norm.pdf(EPS) * (EPS[1] - EPS[0])


def entry(**options: Any) -> Any:
    return lz.get("mixture_vae", **{"hidden": (5,), **options})


def table(zoo: Any, num_rows: int = 5, num_features: int = 4, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_features))
    return zoo.Data((x > 0.0).astype(float) if zoo.spec.likelihood == "bernoulli" else x)


def point(zoo: Any, data: Any, seed: int = 0) -> Any:
    """Random parameters, the networks among them as they start."""
    rng = np.random.default_rng(seed)
    return map_leaves(lambda _, leaf: leaf + 0.3 * rng.normal(size=np.shape(leaf)), zoo.init(data, seed=seed))


def drawn(zoo: Any, data: Any, seed: int = 0) -> dict[str, np.ndarray]:
    return closed_form.noise(data, zoo.spec, np.random.default_rng(seed))


def at_nodes(function: Any, zoo: Any, params: Any, data: Any, prior: Any) -> Any:
    """What a function says of the only row, at every node of its noise."""
    rows = zoo.Data(np.repeat(data.x, len(EPS), 0))
    return function(params, rows, prior, {"latent": EPS[:, None]}, zoo.spec)


def value(zoo: Any, params: Any, data: Any, prior: Any, noise: Any) -> float:
    return closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)[0]


def components(theta: Any, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By SciPy: log p(w | k) at coordinates (n, d), and the joint p(k, w)."""
    log_latent = stats.norm.logpdf(w[:, None], theta.loc, np.exp(theta.log_scale)).sum(-1)
    return log_latent, softmax(theta.weights_logits) * np.exp(log_latent)


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_evidence_is_the_bound_and_the_divergence_from_the_posterior(assignment: str, likelihood: str) -> None:
    zoo = entry(num_latents=1, assignment=assignment, likelihood=likelihood)
    data = table(zoo, num_rows=1)
    params, prior = point(zoo, data), zoo.prior(data)
    theta = params.theta

    def log_likelihood(w: np.ndarray) -> np.ndarray:
        output = closed_form.decoded(params, w[:, None], zoo.spec)
        if likelihood == "bernoulli":
            return stats.bernoulli.logpmf(data.x, expit(output)).sum(1)
        scale = prior.noise_scale if likelihood == "gaussian" else np.exp(theta.noise_log_scale)
        return stats.norm.logpdf(data.x, output, scale).sum(1)

    line = np.linspace(-20.0, 20.0, 8001)
    joint = components(theta, line[:, None])[1].sum(1) * np.exp(log_likelihood(line))
    evidence = np.log(joint.sum() * (line[1] - line[0]))

    q, logits = closed_form.encoded(params, data, zoo.spec)
    w = q.loc[0, 0] + q.scale[0, 0] * EPS
    log_latent, _ = components(theta, w[:, None])
    log_joint = np.log(softmax(theta.weights_logits)) + log_latent
    log_of_k = log_softmax(log_joint if logits is None else logits, axis=1)
    of_k = np.exp(log_of_k)
    log_q = stats.norm.logpdf(w, q.loc[0], q.scale[0])[:, None] + log_of_k
    log_posterior = log_joint + log_likelihood(w)[:, None] - evidence
    divergence = MASS @ (of_k * (log_q - log_posterior)).sum(1)

    parts = at_nodes(closed_form.terms, zoo, params, data, prior)
    bound = MASS @ (parts.reconstruction - parts.assignment - parts.coordinates)
    assert divergence > 0.01
    assert bound + divergence == pytest.approx(evidence, rel=1e-10)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_parts_and_the_bound_of_less_noise_have_one_expectation(assignment: str, likelihood: str) -> None:
    zoo = entry(num_latents=1, assignment=assignment, likelihood=likelihood)
    data = table(zoo, num_rows=1)
    params, prior = point(zoo, data, seed=1), zoo.prior(data)
    parts = at_nodes(closed_form.terms, zoo, params, data, prior)
    draws = parts.reconstruction - parts.assignment - parts.coordinates
    less = at_nodes(closed_form.bounds, zoo, params, data, prior)
    assert MASS @ less == pytest.approx(MASS @ draws, rel=1e-10)
    np.testing.assert_allclose(
        [value(zoo, params, data, prior, {"latent": eps.reshape(1, 1)}) for eps in EPS[::200]], draws[::200], rtol=1e-12
    )
    if assignment == "amortised":  # all but the reconstruction is in closed form
        np.testing.assert_allclose(less - parts.reconstruction, (less - parts.reconstruction)[0], rtol=1e-12)
    noise_of = [
        MASS @ (each - MASS @ each) ** 2 for each in (less - parts.reconstruction, draws - parts.reconstruction)
    ]
    assert noise_of[0] < noise_of[1]


def test_the_divergence_has_no_noise_where_q_lies_in_one_of_the_components() -> None:
    zoo = entry(num_latents=1, hidden=(), num_components=2)
    params = mixed(zoo, np.array([-6.0, 6.0]), 0.5, np.array([0.3, 0.7]), 6.2, 0.3)
    data = zoo.Data([[0.0]])
    parts = at_nodes(closed_form.terms, zoo, params, data, zoo.prior(data))
    left = at_nodes(closed_form.bounds, zoo, params, data, zoo.prior(data)) - parts.reconstruction
    np.testing.assert_allclose(left, left[0], rtol=1e-10)
    assert np.ptp(parts.assignment + parts.coordinates) > 1.0


def test_with_exact_assignments_the_subtracted_terms_are_the_divergence_from_the_mixture() -> None:
    """At every draw: log q(w) - log p(w), by SciPy."""
    zoo = entry(num_latents=3, num_components=4)
    data = table(zoo, num_rows=50)
    params, noise = point(zoo, data), drawn(zoo, data)
    parts = closed_form.terms(params, data, zoo.prior(data), noise, zoo.spec)
    q, _ = closed_form.encoded(params, data, zoo.spec)
    w = q.push(noise["latent"])
    log_q = stats.norm.logpdf(w, q.loc, q.scale).sum(1)
    marginal = np.log(components(params.theta, w)[1].sum(1))
    np.testing.assert_allclose(parts.assignment + parts.coordinates, log_q - marginal, rtol=0, atol=1e-10)


def mixed(zoo: Any, loc: np.ndarray, scale: np.ndarray, weights: np.ndarray, mean: float, sd: float) -> Any:
    """Parameters with these components, and one q(latent) for every row."""
    params = zoo.init(zoo.Data([[0.0]]))
    out = params.phi.encoder["out"]
    code = np.array([mean, np.log(sd), *out.bias[2:]])
    encoder = {"out": type(out)(0.0 * out.weight, code)}
    theta = params.theta._replace(
        weights_logits=np.log(weights), loc=loc[:, None], log_scale=np.broadcast_to(np.log(scale), len(loc))[:, None]
    )
    return lz.Params(theta, params.phi._replace(encoder=encoder))


def coordinates_term(zoo: Any, params: Any) -> float:
    data = zoo.Data([[0.0]])
    return float(MASS @ at_nodes(closed_form.terms, zoo, params, data, zoo.prior(data)).coordinates)


@pytest.mark.parametrize(("size", "width", "scale"), [(2, 0.83, 0.56), (3, 1.28, 0.39), (10, 2.28, 0.14)])
def test_the_last_term_alone_may_be_negative(size: int, width: float, scale: float) -> None:
    """Where components tile q: more than half of the way down to -log K."""
    zoo = entry(num_latents=1, hidden=(), num_components=size)
    params = mixed(zoo, np.linspace(-width, width, size), scale, np.full(size, 1.0 / size), 0.0, 1.0)
    found = coordinates_term(zoo, params)
    assert -np.log(size) < found < -0.5 * np.log(size)


REAL, LOG = st.floats(-3.0, 3.0), st.floats(-1.5, 1.5)


@given(st.lists(st.tuples(REAL, LOG, REAL), min_size=1, max_size=5), REAL, LOG, st.sampled_from(ASSIGNMENTS))
def test_the_last_term_is_never_below_minus_log_k(rows: Any, mean: float, log_sd: float, assignment: str) -> None:
    """Nor below zero where the assignment does not depend on the coordinates."""
    loc, log_scale, logits = np.array(rows).T
    zoo = entry(num_latents=1, hidden=(), num_components=len(loc), assignment=assignment)
    params = mixed(zoo, loc, np.exp(log_scale), softmax(logits), mean, np.exp(log_sd))
    least = -np.log(len(loc)) if assignment == "exact" else 0.0
    assert coordinates_term(zoo, params) >= least - 1e-10


def test_exact_assignments_are_the_best_ones() -> None:
    """At every draw, whatever the encoder makes of the features."""
    zoo, other = entry(num_latents=2), entry(num_latents=2, assignment="amortised")
    data = table(zoo, num_rows=200)
    params, prior, noise = point(other, data), zoo.prior(data), drawn(zoo, data)
    amortised = closed_form.terms(params, data, prior, noise, other.spec)
    exact = closed_form.terms(without_head(zoo, params), data, prior, noise, zoo.spec)
    np.testing.assert_allclose(exact.reconstruction, amortised.reconstruction, rtol=1e-14)
    gap = amortised.assignment + amortised.coordinates - exact.assignment - exact.coordinates
    assert (gap > 0.0).all()


def without_head(zoo: Any, params: Any) -> Any:
    """The parameters without the part of the encoder that makes logits of components."""
    size = 2 * zoo.spec.num_latents
    encoder = params.phi.encoder
    out = type(encoder["out"])(encoder["out"].weight[:, :size], encoder["out"].bias[:size])
    return params._replace(phi=params.phi._replace(encoder={**encoder, "out": out}))


# --- the importance-weighted bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_more_particles_bound_the_evidence_more_tightly(assignment: str) -> None:
    zoo = entry(num_latents=1, assignment=assignment)
    data = table(zoo, num_rows=1)
    params, prior = point(zoo, data, seed=2), zoo.prior(data)
    log_w = at_nodes(closed_form.log_weights, zoo, params, data, prior)
    parts = at_nodes(closed_form.terms, zoo, params, data, prior)
    bound = MASS @ (parts.reconstruction - parts.assignment - parts.coordinates)
    one = MASS @ log_w
    two = MASS @ (np.logaddexp(log_w[:, None], log_w) - np.log(2.0)) @ MASS
    evidence = np.log(MASS @ np.exp(log_w))
    assert one < two < evidence
    if assignment == "exact":
        assert one == pytest.approx(bound, rel=1e-12)
    else:  # the component is summed out of the weights
        assert bound < one


# --- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_gradient_is_that_of_finite_differences(assignment: str, likelihood: str) -> None:
    zoo = entry(num_latents=2, num_components=3, assignment=assignment, likelihood=likelihood)
    data = table(zoo)
    params, prior, noise = point(zoo, data), zoo.prior(data), drawn(zoo, data)
    _, gradient = closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    assert set(leaves(gradient)) == set(leaves(params))
    for name, slope in leaves(gradient).items():
        way = np.random.default_rng(1).normal(size=np.shape(slope))
        moved = [
            map_leaves(lambda path, leaf, h=h, name=name, way=way: leaf + h * way if path == name else leaf, params)
            for h in (1e-5, -1e-5)
        ]
        up, down = (value(zoo, each, data, prior, noise) for each in moved)
        assert (up - down) / 2e-5 == pytest.approx((slope * way).sum(), rel=1e-6, abs=1e-7), name


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_minibatches_average_to_the_full_batch(assignment: str) -> None:
    """Over all pairs of five rows, each of which stands for the whole."""
    zoo = entry(assignment=assignment)
    data = table(zoo)
    params, prior, noise = point(zoo, data), zoo.prior(data), drawn(zoo, data)
    whole, gradient = closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    parts = [
        closed_form.value_and_gradient(
            params, take_rows(data, list(rows)), prior, {"latent": noise["latent"][list(rows)]}, zoo.spec
        )
        for rows in itertools.combinations(range(5), 2)
    ]
    assert 5 / 2 * np.mean([part for part, _ in parts]) == pytest.approx(whole, rel=1e-13)
    mean = map_trees(lambda *each: 5 / 2 * np.mean(each, axis=0), *(part for _, part in parts))
    for name, slope in leaves(gradient).items():
        np.testing.assert_allclose(leaves(mean)[name], slope, rtol=1e-10, atol=1e-12, err_msg=name)
    rows = closed_form.terms(params, data, prior, noise, zoo.spec)
    total = rows.reconstruction - rows.assignment - rows.coordinates
    assert total.sum() == pytest.approx(whole, rel=1e-13)


# --- labels, and one component ----------------------------------------------------------------------------------------


def relabelled(zoo: Any, params: Any, order: list[int]) -> Any:
    theta, phi = params
    theta = theta._replace(**{field: getattr(theta, field)[order] for field in ("weights_logits", "loc", "log_scale")})
    if zoo.spec.assignment == "amortised":
        size = 2 * zoo.spec.num_latents
        columns = [*range(size), *(size + k for k in order)]
        out = phi.encoder["out"]
        phi = phi._replace(encoder={**phi.encoder, "out": type(out)(out.weight[:, columns], out.bias[columns])})
    return lz.Params(theta, phi)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_labels_mean_nothing(assignment: str) -> None:
    zoo = entry(num_components=4, assignment=assignment)
    data = table(zoo)
    params, prior, noise, order = point(zoo, data), zoo.prior(data), drawn(zoo, data), [2, 0, 3, 1]
    other = relabelled(zoo, params, order)
    before, gradient = closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    after, moved = closed_form.value_and_gradient(other, data, prior, noise, zoo.spec)
    assert after == pytest.approx(before, rel=1e-13)
    for name, slope in leaves(relabelled(zoo, gradient, order)).items():
        np.testing.assert_allclose(leaves(moved)[name], slope, rtol=1e-10, atol=1e-13, err_msg=name)
    for function in (closed_form.bounds, closed_form.log_weights):
        one, two = (function(each, data, prior, noise, zoo.spec) for each in (params, other))
        np.testing.assert_allclose(two, one, rtol=1e-12)
    found, again = (closed_form.predict(each, data, prior, zoo.spec) for each in (params, other))
    np.testing.assert_allclose(again["responsibilities"], found["responsibilities"][:, order], rtol=1e-12)
    np.testing.assert_array_equal(np.array(order)[again["component"]], found["component"])
    np.testing.assert_allclose(again["x"], found["x"], rtol=1e-14)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_one_standard_component_is_the_vae(assignment: str, likelihood: str) -> None:
    zoo = entry(num_components=1, assignment=assignment, likelihood=likelihood)
    plain = lz.get("vae", hidden=(5,), likelihood=likelihood)
    data = table(zoo)
    params, prior, noise = point(zoo, data), zoo.prior(data), drawn(zoo, data)
    zeros = np.zeros((1, 2))
    params = params._replace(theta=params.theta._replace(loc=zeros, log_scale=zeros))

    def as_vae(tree: Any) -> Any:
        encoder = without_head(zoo, tree).phi.encoder
        return lz.Params(plain.Theta(tree.theta.decoder, tree.theta.noise_log_scale), plain.Phi(encoder))

    mine, gradient = closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    args = as_vae(params), plain.Data(data.x), plain.Prior(*prior), noise, plain.spec
    theirs, wanted = vae_form.value_and_gradient(*args)
    assert mine == pytest.approx(theirs, rel=1e-12)
    for name, slope in leaves(wanted).items():
        np.testing.assert_allclose(leaves(as_vae(gradient))[name], slope, rtol=1e-10, atol=1e-12, err_msg=name)
    for verb in ("bounds", "log_weights"):
        own = getattr(closed_form, verb)(params, data, prior, noise, zoo.spec)
        np.testing.assert_allclose(own, getattr(vae_form, verb)(*args), rtol=1e-10, err_msg=verb)


# --- what is predicted ------------------------------------------------------------------------------------------------


def test_responsibilities_are_bayes_rule_at_the_mean_of_q() -> None:
    zoo = entry(num_latents=3, num_components=4)
    data = table(zoo, num_rows=30)
    params = point(zoo, data)
    found = closed_form.predict(params, data, zoo.prior(data), zoo.spec)
    joint = components(params.theta, found["latent"])[1]
    np.testing.assert_allclose(found["responsibilities"], joint / joint.sum(1, keepdims=True), rtol=1e-10)


def test_amortised_responsibilities_do_not_depend_on_the_mixture() -> None:
    zoo = entry(assignment="amortised")
    data = table(zoo, num_rows=30)
    params = point(zoo, data)
    moved = params._replace(theta=params.theta._replace(loc=params.theta.loc + 3.0))
    one, two = (closed_form.predict(each, data, zoo.prior(data), zoo.spec) for each in (params, moved))
    np.testing.assert_array_equal(one["responsibilities"], two["responsibilities"])
    assert np.ptp(one["responsibilities"], axis=0).max() > 0.01


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_components_far_from_every_row_stay_finite(assignment: str) -> None:
    zoo = entry(assignment=assignment)
    data = table(zoo)
    params, prior, noise = point(zoo, data), zoo.prior(data), drawn(zoo, data)
    far = params.theta._replace(
        loc=params.theta.loc + np.array([[1e4], [0.0], [0.0]]), weights_logits=np.array([0.0, 0.0, -1e3])
    )
    found, gradient = closed_form.value_and_gradient(params._replace(theta=far), data, prior, noise, zoo.spec)
    assert np.isfinite(found)
    assert all(np.isfinite(leaf).all() for leaf in leaves(gradient).values())
    assert np.isfinite(closed_form.bounds(params._replace(theta=far), data, prior, noise, zoo.spec)).all()
