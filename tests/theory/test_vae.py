"""A variational autoencoder where everything is known: linear and Gaussian it is probabilistic PCA; else quadrature."""

import itertools

import numpy as np
import pytest
from scipy import integrate
from scipy.special import logsumexp

import latentzoo as lz
from latentzoo.inference import deep
from latentzoo.inference.arrays import raw_cholesky
from latentzoo.inference.backward import backward, forward
from latentzoo.inference.codes import Gaussian
from latentzoo.inference.divergences import kl_normal
from latentzoo.models.language import contract, networks
from latentzoo.models.language.networks import Layer
from latentzoo.models.language.ppl import LIBRARIES, handle

PCA = lz.get("probabilistic_pca", num_latents=2)
LINEAR = lz.get("vae", num_latents=2, hidden=(), likelihood="learned_gaussian", posterior="full")


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return PCA.simulate(seed=3, num_rows=150)[0].x


@pytest.fixture(scope="module")
def exact(table: np.ndarray):
    return lz.fit(PCA, PCA.Data(table), "exact", progress=False)


def as_vae(theta) -> lz.Params:
    """Return probabilistic PCA as a linear vae, whose encoder is the exact posterior."""
    noise = np.exp(2.0 * theta.noise_log_scale)
    covariance = np.linalg.inv(np.eye(2) + theta.weight.T @ theta.weight / noise)
    mean = theta.weight @ covariance / noise
    raw = raw_cholesky(covariance).ravel()
    decoder = {"out": Layer(theta.weight.T, theta.loc)}
    weight = np.concatenate([mean, np.zeros((len(mean), 4))], 1)
    encoder = {"out": Layer(weight, np.concatenate([-theta.loc @ mean, raw]))}
    return lz.Params(LINEAR.Theta(decoder, theta.noise_log_scale), LINEAR.Phi(encoder))


def sigma_points(zoo, data) -> list[dict[str, np.ndarray]]:
    """Return noise whose mean integrates what is quadratic in it, such as a linear Gaussian bound, exactly."""
    d = zoo.spec.num_latents
    ends = [sign * np.sqrt(d) * row for row in np.eye(d) for sign in (1.0, -1.0)]
    return [{"latent": np.tile(end, (len(data.x), 1))} for end in ends]


def exact_bound(zoo, params, data, prior) -> float:
    points = sigma_points(zoo, data)
    return float(np.mean([zoo.closed_form.bounds(params, data, prior, eps, zoo.spec).sum() for eps in points]))


# --- probabilistic PCA ------------------------------------------------------------------------------------------------


def test_with_the_exact_posterior_every_draw_is_the_log_likelihood(table, exact) -> None:
    params, data = as_vae(exact.params.theta), LINEAR.Data(table)
    prior = LINEAR.prior(data)
    rows = PCA.closed_form.log_predictive(exact.params, PCA.Data(table), PCA.Prior(), PCA.spec)
    for seed in range(3):
        noise = LINEAR.closed_form.noise(data, LINEAR.spec, np.random.default_rng(seed))
        found = LINEAR.closed_form.log_weights(params, data, prior, noise, LINEAR.spec)
        np.testing.assert_allclose(found, rows, rtol=1e-10)
    assert exact_bound(LINEAR, params, data, prior) == pytest.approx(exact.elbo, rel=1e-11)
    assert lz.deep.evidence(LINEAR, data, params, num_particles=5).log_evidence == pytest.approx(exact.elbo, rel=1e-11)


@pytest.mark.parametrize("library", LIBRARIES)
def test_so_it_is_in_the_libraries(table, exact, library) -> None:
    data = LINEAR.Data(table[:20])
    found = lz.importance.evidence(LINEAR, data, as_vae(exact.params.theta), num_particles=30, library=library)
    rows = PCA.closed_form.log_predictive(exact.params, PCA.Data(table[:20]), PCA.Prior(), PCA.spec)
    np.testing.assert_allclose(found.rows, rows, rtol=1e-10)


def test_bound_and_divergence_add_up_to_the_log_evidence(table, exact) -> None:
    data, right = LINEAR.Data(table), as_vae(exact.params.theta)
    rng = np.random.default_rng(0)
    wrong = right._replace(phi=contract.map_leaves(lambda _, x: x + 0.2 * rng.normal(size=x.shape), right.phi))
    q, p = (LINEAR.closed_form.posterior(params, data, LINEAR.spec) for params in (wrong, right))
    kl = kl_normal(q.loc, q.scale, p.loc, p.scale)
    assert (kl > 1e-3).all()
    bound = exact_bound(LINEAR, wrong, data, LINEAR.prior(data))
    assert bound + kl.sum() == pytest.approx(exact.elbo, rel=1e-10)


@pytest.mark.filterwarnings("ignore:.* has not converged")
def test_training_comes_to_the_highest_likelihood_and_never_beyond(table, exact) -> None:
    data = LINEAR.Data(table)
    fit = lz.fit(LINEAR, data, estimator="path", learning_rate=0.02, schedule="cosine", num_steps=1500, progress=False)
    found = exact_bound(LINEAR, fit.params, data, fit.prior)
    assert found <= exact.elbo + 1e-8
    assert exact.elbo - found < 0.01 * len(table)
    assert fit.elbo == pytest.approx(found, abs=6.0 * fit.elbo_error + 1e-9)


# --- not linear: one latent coordinate, by quadrature -----------------------------------------------------------------


@pytest.fixture(params=["bernoulli", "gaussian"])
def bent(request):
    """A small network with one latent coordinate, its parameters and some rows."""
    zoo = lz.get("vae", num_latents=1, hidden=(4,), likelihood=request.param)
    params = zoo.init(zoo.simulate(seed=1, num_rows=2)[0], seed=2)
    # A code that varies, but so wide that its weights have all moments.
    out = params.phi.encoder["out"]
    wide = params.phi.encoder | {"out": Layer(out.weight * [0.5, 0.1], out.bias + 0.2)}
    decoder = contract.map_leaves(lambda _, leaf: 1.3 * leaf, params.theta.decoder)
    params = lz.Params(params.theta._replace(decoder=decoder), zoo.Phi(wide))
    data, _ = zoo.simulate(seed=1, num_rows=5, params=params)
    return zoo, params, data, zoo.prior(data)


def log_evidence(zoo, params, data, prior) -> np.ndarray:
    """Return log p(x) of each row, by SciPy's quadrature over the latent coordinate and its densities."""
    from scipy import stats

    def joint(z: float, x: np.ndarray) -> float:
        output = zoo.closed_form.decoded(params, np.array([z]), zoo.spec)
        if zoo.spec.likelihood == "bernoulli":
            of_x = stats.bernoulli(1.0 / (1.0 + np.exp(-output))).logpmf(x.astype(int)).sum()
        else:
            of_x = stats.norm(output, prior.noise_scale).logpdf(x).sum()
        return float(np.exp(of_x + stats.norm.logpdf(z)))

    return np.log([integrate.quad(joint, -9, 9, args=(x,), epsabs=0, epsrel=1e-11, limit=400)[0] for x in data.x])


def trapezoid(size: int = 801) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes of standard normal noise and their weights: to rounding for all that is smooth."""
    nodes = np.linspace(-11.0, 11.0, size)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def test_bounds_rise_with_their_particles_to_the_log_evidence(bent) -> None:
    zoo, params, data, prior = bent
    nodes, weights = trapezoid()
    log_w = np.stack(
        [
            zoo.closed_form.log_weights(params, data, prior, {"latent": np.full((5, 1), node)}, zoo.spec)
            for node in nodes
        ]
    )
    first = weights @ log_w
    both = np.logaddexp(log_w[:, None], log_w[None]) - np.log(2.0)
    second = np.einsum("i,j,ijn->n", weights, weights, both)
    exact = log_evidence(*bent)
    assert (first < second).all()
    assert (second < exact).all()
    # The weights themselves are unbiased: their mean is the evidence.
    np.testing.assert_allclose(logsumexp(log_w, axis=0, b=weights[:, None]), exact, atol=1e-9)
    # With the divergence in closed form the bound is the same, draw by draw with less noise.
    rows = [zoo.closed_form.bounds(params, data, prior, {"latent": np.full((5, 1), x)}, zoo.spec) for x in nodes]
    np.testing.assert_allclose(weights @ np.stack(rows), first, atol=1e-10)
    assert np.var(rows, axis=0).sum() < np.var(log_w, axis=0).sum()


def test_evidence_by_draws_is_that_of_quadrature_and_of_the_libraries(bent) -> None:
    zoo, params, data, prior = bent
    exact = log_evidence(*bent).sum()
    hand = lz.deep.evidence(zoo, data, params, prior=prior, num_particles=4000, seed=1)
    assert abs(hand.log_evidence - exact) < 5.0 * hand.error + 1e-3
    auto = lz.importance.evidence(zoo, data, params, prior=prior, num_particles=1000, library="numpyro")
    assert abs(hand.log_evidence - auto.log_evidence) < 5.0 * np.hypot(hand.error, auto.error) + 1e-3
    assert 0.0 < hand.error < 0.2


def test_the_gradient_is_the_slope_of_the_value(bent) -> None:
    zoo, params, data, prior = bent
    noise = zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(5))
    _, gradient = zoo.closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    direction = contract.map_leaves(lambda _, x: np.random.default_rng(x.size).normal(size=x.shape), params)
    along = sum(
        (g * d).sum() for g, d in zip(*(contract.leaves(t).values() for t in (gradient, direction)), strict=True)
    )

    def moved(step: float) -> float:
        at = contract.map_trees(lambda x, d: x + step * d, params, direction)
        return zoo.closed_form.value_and_gradient(at, data, prior, noise, zoo.spec)[0]

    # Richardson's fourth-order difference.
    slope = (8.0 * (moved(1e-3) - moved(-1e-3)) - (moved(2e-3) - moved(-2e-3))) / 12e-3
    assert along == pytest.approx(slope, rel=1e-8)


@pytest.mark.parametrize("library", [None, "pyro"])
def test_exhaustive_minibatches_average_to_the_whole(bent, library) -> None:
    from latentzoo.inference.automatic import Pair, backend, pushed

    zoo, params, data, prior = bent
    noise = zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(0))

    def bound_and_gradient(rows: list[int], total: int | None):
        part, eps = contract.take_rows(data, rows), {"latent": noise["latent"][rows]}
        if library is None:
            value, gradient = zoo.closed_form.value_and_gradient(params, part, prior, eps, zoo.spec)
            factor = total / len(rows) if total else 1.0
            return factor * value, {name: factor * leaf for name, leaf in contract.leaves(gradient).items()}
        kwargs = {"total_rows": total} if total else {}
        pair = Pair(zoo.model.on(library), zoo.guide.on(library), (part, prior, params), kwargs, 1)
        values, gradient = backend(library).elbos(pair, pushed)(contract.leaves(params), [eps], np.ones(1))
        return values[0], gradient

    whole, gradient = bound_and_gradient([0, 1, 2, 3, 4], None)
    parts = [bound_and_gradient(list(rows), 5) for rows in itertools.combinations(range(5), 2)]
    assert np.mean([value for value, _ in parts]) == pytest.approx(whole, rel=1e-11)
    for name, leaf in gradient.items():
        np.testing.assert_allclose(np.mean([each[name] for _, each in parts], axis=0), leaf, rtol=1e-9, atol=1e-10)


# --- surgery ----------------------------------------------------------------------------------------------------------


def test_surgery_is_that_of_direct_integration(bent) -> None:
    zoo, params, data, _ = bent
    q = zoo.closed_form.posterior(params, data, zoo.spec)
    z = np.linspace(-12.0, 12.0, 40_001)[:, None, None]
    log_q = q.log_prob(z)  # (points, rows)
    log_p = -0.5 * z[:, :, 0] ** 2 - 0.5 * np.log(2.0 * np.pi)
    log_all = logsumexp(log_q, axis=1, keepdims=True) - np.log(5.0)
    step = float(z[1, 0, 0] - z[0, 0, 0])
    information = (np.exp(log_q) * (log_q - log_all)).sum() * step / 5.0
    aggregate = (np.exp(log_all) * (log_all - log_p)).sum() * step
    found = lz.deep.surgery(zoo, data, params)
    assert found.information == pytest.approx(information, abs=1e-6)  # Gauss and Hermite's nodes on a mixture's log
    assert found.aggregate_kl == pytest.approx(aggregate, abs=1e-6)
    assert found.information + found.aggregate_kl == pytest.approx(found.mean_kl, abs=1e-10)
    assert found.mean_kl == pytest.approx(float(q.kl().mean()), abs=1e-12)
    assert 0.0 < found.information <= np.log(5.0)


def test_codes_tell_all_or_nothing_of_their_row(bent) -> None:
    zoo, params, data, _ = bent
    silent = params._replace(phi=contract.map_leaves(lambda _, leaf: 0.0 * leaf, params.phi))
    found = lz.deep.surgery(zoo, data, silent)
    assert (found.information, found.mean_kl) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert found.num_active == 0
    out = params.phi.encoder["out"]
    loud = params.phi.encoder | {"out": Layer(out.weight * [300.0, 0.0], np.array([0.0, -6.0]))}
    distinct = zoo.Data(np.unique(data.x, axis=0))
    found = lz.deep.surgery(zoo, distinct, params._replace(phi=zoo.Phi(loud)))
    assert found.information == pytest.approx(np.log(len(distinct.x)), abs=1e-6)
    assert found.num_active == 1
    with pytest.raises(lz.UserError, match="probabilistic_pca has no Gaussian codes"):
        lz.deep.surgery(PCA, None, None)
    with pytest.raises(lz.UserError, match="probabilistic_pca has its bound in closed form"):
        lz.deep.evidence(PCA, None, None)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_convolutions_are_torchs() -> None:
    import torch

    rng = np.random.default_rng(0)
    (step, *_), layers = (
        (chain := networks.convolution(7, (4,), 3)),
        networks.start(networks.convolution(7, (4,), 3), rng),
    )
    x = rng.normal(size=(5, 49))
    ours, _ = forward(chain[:1], layers, x)
    weight = torch.from_numpy(layers[step.name].weight.reshape(3, 3, 1, 4)).permute(3, 2, 0, 1)
    theirs = torch.nn.functional.conv2d(torch.from_numpy(x).reshape(5, 1, 7, 7), weight, stride=2, padding=1)
    np.testing.assert_allclose(ours, np.tanh(theirs.permute(0, 2, 3, 1).reshape(5, -1).numpy()), atol=1e-13)

    chain = networks.deconvolution(2, (4, 3), 7)
    layers = networks.start(chain, rng)
    h = torch.from_numpy(np.tanh(x[:, :2] @ layers["in"].weight)).reshape(5, 2, 2, 3).permute(0, 3, 1, 2)
    for name, side, channels in (("conv1", 4, (3, 4)), ("out", 7, (4, 1))):
        doubled = torch.nn.functional.interpolate(h, scale_factor=2)[..., :side, :side]
        weight = torch.from_numpy(layers[name].weight.reshape(3, 3, *channels)).permute(3, 2, 0, 1)
        h = torch.nn.functional.conv2d(doubled, weight, padding=1)
        h = torch.tanh(h) if name != "out" else h
    ours, _ = forward(chain, layers, x[:, :2])
    np.testing.assert_allclose(ours, h.reshape(5, -1).numpy(), atol=1e-13)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "chain", [networks.mlp(5, (4, 3), 2), networks.mlp(3, (), 2), networks.convolution(5, (3, 2), 4)]
)
def test_the_way_back_is_the_automatic_one(chain, library) -> None:
    from latentzoo.inference.automatic import backend

    auto = backend(library)
    rng = np.random.default_rng(1)
    layers, inputs = networks.start(chain, rng), 25 if chain[0].patches is not None else chain[0].inputs
    x, by_output = rng.normal(size=(2, 3, inputs)), rng.normal(size=(2, 3, chain[-1].outputs))
    ours, tape = forward(chain, layers, x)
    gradient, by_x = backward(chain, layers, tape, by_output)

    def scalar(leaves):
        tree = contract.from_leaves(dict[str, Layer], {n: v for n, v in leaves.items() if n != "x"}, "layers")
        return (networks.run(handle(library), chain, tree, leaves["x"]) * auto.ppl.array(by_output)).sum()

    with auto.precision():
        value, automatic = auto.value_and_gradient(scalar, {**contract.leaves(layers), "x": x})
    assert value == pytest.approx(float((ours * by_output).sum()), rel=1e-12)
    for name, leaf in {**contract.leaves(gradient), "x": by_x}.items():
        np.testing.assert_allclose(automatic[name], leaf, rtol=1e-11, atol=1e-12)


def test_gaussian_codes_have_the_densities_of_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    for posterior, size in (("diagonal", 6), ("full", 12)):
        q = Gaussian.of(rng.normal(size=(4, size)), 3, posterior)
        eps = rng.normal(size=(4, 3))
        z = q.push(eps)
        factors = q.scale if q.is_full else [np.diag(row) for row in q.scale]
        expected = [stats.multivariate_normal(m, a @ a.T).logpdf(x) for m, a, x in zip(q.loc, factors, z, strict=True)]
        np.testing.assert_allclose(q.log_prob_at(eps), expected, rtol=1e-12)
        np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-12)
        zero, one = np.zeros(3), np.eye(3)
        kl = [kl_normal(m, np.asarray(a), zero, one) for m, a in zip(q.loc, factors, strict=True)]
        np.testing.assert_allclose(q.kl(), kl, rtol=1e-12)


def test_a_bound_needs_no_more_draws_than_it_has_noise(bent) -> None:
    zoo, params, data, prior = bent
    few, many = (deep.bound(zoo, data, prior, params, num_draws=size, seed=1) for size in (20, 2000))
    assert many[1] < few[1]
    nodes, weights = trapezoid()
    rows = [zoo.closed_form.bounds(params, data, prior, {"latent": np.full((5, 1), x)}, zoo.spec) for x in nodes]
    assert abs(many[0] - float((weights @ np.stack(rows)).sum())) < 5.0 * many[1]
