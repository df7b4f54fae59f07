"""The semi-supervised autoencoder against what is known without its closed form: quadrature, sums, both libraries."""

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp, softmax

import latentzoo as lz
from latentzoo.inference import label_baselines
from latentzoo.inference.automatic import Pair, backend, pushed
from latentzoo.inference.closed_form import semisupervised_vae as closed_form
from latentzoo.models.language.contract import leaves, map_leaves, map_trees, take_rows
from latentzoo.models.language.networks import Layer

CLASSES, FEATURES = 3, 4
MIXED = np.array([2, -1, 0, -1, 1, -1])
LIKELIHOODS = ["bernoulli", "gaussian", "learned_gaussian"]
# Standard normal noise, for which the trapezoid rule is exact to rounding: as far as its density is a float, since the
# mean of importance weights also needs what is far out; and as far as matters for means of their logarithms.
FAR_NODES = np.linspace(-37.0, 37.0, 1481)
FAR_WEIGHTS = stats.norm.pdf(FAR_NODES) * (FAR_NODES[1] - FAR_NODES[0])
NEAR = np.abs(FAR_NODES) < 9.5
NODES, WEIGHTS = FAR_NODES[NEAR], FAR_WEIGHTS[NEAR]


class Problem(NamedTuple):
    """A model with data and parameters far from any optimum."""

    zoo: Any
    params: lz.Params
    data: Any
    prior: Any

    def value(self, noise: np.ndarray) -> float:
        return self.value_and_gradient(noise)[0]

    def value_and_gradient(self, noise: np.ndarray) -> tuple[float, lz.Params]:
        return closed_form.value_and_gradient(self.params, self.data, self.prior, {"latent": noise}, self.zoo.spec)

    def rows(self, function: Any, noise: np.ndarray) -> np.ndarray:
        return function(self.params, self.data, self.prior, {"latent": noise}, self.zoo.spec)

    def labelled(self, label: Any) -> "Problem":
        """The problem with other labels."""
        return self._replace(data=self.data._replace(label=np.broadcast_to(label, self.data.label.shape)))

    def part(self, rows: Any) -> "Problem":
        return self._replace(data=take_rows(self.data, rows))

    def weighted(self, alpha: float) -> "Problem":
        return self._replace(prior=self.prior._replace(classification_weight=np.array(alpha)))


def problem(likelihood: str = "bernoulli", num_latents: int = 2, label: np.ndarray = MIXED, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    zoo = lz.get("semisupervised_vae", num_latents=num_latents, num_classes=CLASSES, hidden=(3,), likelihood=likelihood)
    x = (
        rng.random((len(label), FEATURES)) < 0.5
        if likelihood == "bernoulli"
        else rng.normal(size=(len(label), FEATURES))
    )
    data = zoo.check(zoo.Data(x.astype(float), label))
    prior = zoo.prior(data, class_probs=np.array([0.5, 0.3, 0.2]))
    params = zoo.guide_room.init(data._replace(label=None), prior, zoo.spec, rng, True)
    jittered = map_leaves(lambda _, leaf: leaf + 0.2 * rng.normal(size=np.shape(leaf)), params)
    return Problem(zoo, jittered, data, prior)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(MIXED), 2))


every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def same(one: lz.Params, other: lz.Params, tolerance: float = 1e-12) -> None:
    """All derivatives are the same, to so much of the largest of their array."""
    for name, leaf in leaves(one).items():
        expected = leaves(other)[name]
        np.testing.assert_allclose(
            leaf, expected, rtol=0, atol=tolerance * (np.abs(expected).max() + 1.0), err_msg=name
        )


def added(first: lz.Params, second: lz.Params) -> lz.Params:
    return map_trees(np.add, first, second)


# --- the log evidence, by quadrature over one latent coordinate and the sum over the labels ---------------------------


def network(layers: dict[str, Layer], x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ layers["hidden0"].weight + layers["hidden0"].bias) @ layers["out"].weight + layers["out"].bias


class Grid(NamedTuple):
    """Log densities at points along z, (classes, rows, points): of x, label and z together, and of q."""

    log_joint: np.ndarray
    log_q: np.ndarray
    step: float

    @property
    def log_evidence(self) -> np.ndarray:
        """log p(x, label), (classes, rows)."""
        return logsumexp(self.log_joint, axis=-1) + np.log(self.step)


def grid(of: Problem) -> Grid:
    """Evaluate the densities by scipy and two lines of network."""
    theta, phi, x = of.params.theta, of.params.phi, of.data.x
    z = np.linspace(-60.0, 60.0, 12001)
    log_joint, log_q = (np.empty((CLASSES, len(x), len(z))) for _ in range(2))
    for k, one_hot in enumerate(np.eye(CLASSES)):
        output = network(theta.decoder, np.column_stack([z, np.tile(one_hot, (len(z), 1))]))
        loc, log_scale = network(phi.encoder, np.column_stack([x, np.tile(one_hot, (len(x), 1))])).T
        log_q[k] = stats.norm.logpdf(z, loc[:, None], np.exp(log_scale)[:, None])
        if of.zoo.spec.likelihood == "bernoulli":
            of_x = stats.bernoulli.logpmf(x[:, None], 1.0 / (1.0 + np.exp(-output))).sum(-1)
        else:
            learnt = theta.noise_log_scale
            scale = of.prior.noise_scale if learnt is None else np.exp(learnt)
            of_x = stats.norm.logpdf(x[:, None], output, scale).sum(-1)
        log_joint[k] = of_x + stats.norm.logpdf(z) + np.log(of.prior.class_probs[k])
    return Grid(log_joint, log_q, z[1] - z[0])


def at_nodes(of: Problem, function: Any) -> np.ndarray:
    """A function of each row at every node of the noise, (nodes, rows)."""
    num_rows, num_nodes = len(of.data.x), len(FAR_NODES)
    tiled = of._replace(data=take_rows(of.data, np.tile(np.arange(num_rows), num_nodes)))
    return tiled.rows(function, np.repeat(FAR_NODES, num_rows)[:, None]).reshape(num_nodes, num_rows)


def log_evidence(of: Problem) -> np.ndarray:
    """log p(x, label) of rows with a label, log p(x) of others."""
    by_class, label = grid(of).log_evidence, of.data.label
    return np.where(label >= 0, by_class[label, np.arange(len(label))], logsumexp(by_class, axis=0))


@every_likelihood
def test_the_bound_and_its_kl_are_the_log_evidence(likelihood: str) -> None:
    """KL of q(label, latent) from the posterior, of rows with a label of q(latent) alone."""
    of = problem(likelihood, num_latents=1)
    bounds = FAR_WEIGHTS @ at_nodes(of, closed_form.bounds)
    known, evidence = grid(of), log_evidence(of)
    r = softmax(network(of.params.phi.classifier, of.data.x), axis=-1).T
    r = np.where(MIXED >= 0, np.eye(CLASSES)[:, MIXED], r)
    log_r = np.log(np.where(r > 0.0, r, 1.0))
    gap = log_r[..., None] + known.log_q - known.log_joint + evidence[:, None]
    kl = (r * (np.exp(known.log_q) * gap).sum(-1) * known.step).sum(0)
    assert kl.min() > 1e-3
    np.testing.assert_allclose(bounds + kl, evidence, rtol=1e-10)


@every_likelihood
def test_the_mean_of_the_draws_is_the_bound(likelihood: str) -> None:
    of = problem(likelihood, num_latents=1)
    values = [of.value(np.full((len(MIXED), 1), node)) for node in NODES]
    assert WEIGHTS @ values == pytest.approx((FAR_WEIGHTS @ at_nodes(of, closed_form.bounds)).sum(), rel=1e-11)


@every_likelihood
def test_importance_weights_have_the_evidence_as_their_mean_and_bound_it(likelihood: str) -> None:
    of = problem(likelihood, num_latents=1)
    log_weights, evidence = at_nodes(of, closed_form.log_weights), log_evidence(of)
    np.testing.assert_allclose(logsumexp(log_weights, axis=0, b=FAR_WEIGHTS[:, None]), evidence, rtol=1e-10)
    elbo, first = FAR_WEIGHTS @ at_nodes(of, closed_form.bounds), FAR_WEIGHTS @ log_weights
    near = log_weights[NEAR]
    pairs = np.logaddexp(near[:, None], near[None]) - np.log(2.0)
    second = np.einsum("i,j,ijn->n", WEIGHTS, WEIGHTS, pairs)
    known = MIXED >= 0
    np.testing.assert_allclose(first[known], elbo[known], rtol=1e-11)
    assert (first[~known] > elbo[~known]).all()
    assert (first < second).all()
    assert (second < evidence).all()


# --- labels -----------------------------------------------------------------------------------------------------------


@every_likelihood
def test_a_row_without_a_label_is_the_sum_over_all_labels(likelihood: str, noise: np.ndarray) -> None:
    """U(x) = sum_y q(y | x) (L(x, y) - log q(y | x)), with L of rows that have each label."""
    of = problem(likelihood)
    probs = closed_form.predict(of.params, of.data, of.prior, of.zoo.spec)["label_probs"]
    for function in (closed_form.bounds, closed_form.log_weights):
        by_label = np.stack([of.labelled(k).rows(function, noise) for k in range(CLASSES)], -1)
        found = of.labelled(-1).rows(function, noise)
        if function is closed_form.bounds:
            np.testing.assert_allclose(found, (probs * (by_label - np.log(probs))).sum(-1), rtol=1e-12)
        else:  # the label summed out
            np.testing.assert_allclose(found, logsumexp(by_label, axis=-1), rtol=1e-12)
            total = (probs * (by_label - np.log(probs))).sum()
    assert of.labelled(-1).value(noise) == pytest.approx(total, rel=1e-12)


@every_likelihood
def test_both_kinds_of_rows_add_up(likelihood: str, noise: np.ndarray) -> None:
    of = problem(likelihood).weighted(0.7)
    value, gradient = of.value_and_gradient(noise)
    known = MIXED >= 0
    first, second = (of.part(rows).value_and_gradient(noise[rows]) for rows in (known, ~known))
    assert value == pytest.approx(first[0] + second[0], rel=1e-13)
    same(gradient, added(first[1], second[1]))
    for function in (closed_form.bounds, closed_form.log_weights):
        each = of.rows(function, noise)
        np.testing.assert_allclose(each[known], of.part(known).rows(function, noise[known]), rtol=1e-13)
        np.testing.assert_allclose(each[~known], of.part(~known).rows(function, noise[~known]), rtol=1e-13)


def test_minibatches_average_to_the_whole(noise: np.ndarray) -> None:
    of = problem().weighted(0.7)
    batches = [list(rows) for rows in itertools.combinations(range(6), 2)]
    mean = np.mean([3.0 * of.part(rows).value(noise[rows]) for rows in batches])
    assert mean == pytest.approx(of.value(noise), rel=1e-13)


@every_likelihood
def test_the_names_of_the_classes_mean_nothing(likelihood: str, noise: np.ndarray) -> None:
    """Labels, class probabilities, and what goes in and out of the networks, all in another order."""
    order = np.array([2, 0, 1])  # the class that each new one is
    of = problem(likelihood).weighted(0.7)
    theta, phi = of.params

    def moved_in(layers: dict[str, Layer]) -> dict[str, Layer]:
        weight = layers["hidden0"].weight
        classes = weight[-CLASSES:][order]
        return layers | {"hidden0": layers["hidden0"]._replace(weight=np.concatenate([weight[:-CLASSES], classes]))}

    out = Layer(*(leaf[..., order] for leaf in phi.classifier["out"]))
    new_phi = phi._replace(classifier=phi.classifier | {"out": out}, encoder=moved_in(phi.encoder))
    params = lz.Params(theta._replace(decoder=moved_in(theta.decoder)), new_phi)
    label = np.where(MIXED < 0, -1, np.argsort(order)[MIXED])
    prior = of.prior._replace(class_probs=of.prior.class_probs[order])
    other = of._replace(params=params, prior=prior).labelled(label)
    assert other.value(noise) == pytest.approx(of.value(noise), rel=1e-13)
    for function in (closed_form.bounds, closed_form.log_weights):
        np.testing.assert_allclose(other.rows(function, noise), of.rows(function, noise), rtol=1e-12)
    mine, renamed = (closed_form.predict(p.params, p.data, p.prior, p.zoo.spec) for p in (of, other))
    np.testing.assert_allclose(renamed["label_probs"], mine["label_probs"][:, order], rtol=1e-12)
    assert (order[renamed["label"]] == mine["label"]).all()
    np.testing.assert_allclose(renamed["x"], mine["x"], rtol=1e-12)


def test_the_classification_term_is_the_objective_of_the_classifier_alone(noise: np.ndarray) -> None:
    of = problem()
    (plain, slope), (more, steeper) = (of.weighted(alpha).value_and_gradient(noise) for alpha in (0.0, 2.5))
    known = MIXED >= 0
    chain = closed_form.chains(of.params.theta, of.zoo.spec).classifier
    is_label = MIXED[known, None] == np.arange(CLASSES)
    alone, by_layers = label_baselines.network_objective(chain, of.params.phi.classifier, of.data.x[known], is_label)
    assert more - plain == pytest.approx(2.5 * alone, rel=1e-12)
    for name, leaf in leaves(steeper).items():
        path = name.removeprefix("phi.classifier.")
        expected = 2.5 * leaves(by_layers)[path] if path != name else 0.0
        np.testing.assert_allclose(leaf - leaves(slope)[name], expected, rtol=0, atol=1e-11, err_msg=name)


def test_rows_with_labels_teach_the_classifier_by_that_term_alone(noise: np.ndarray) -> None:
    of = problem().labelled(1)
    assert not any(leaf.any() for leaf in leaves(of.value_and_gradient(noise)[1].phi.classifier).values())
    assert any(leaf.any() for leaf in leaves(of.weighted(1.0).value_and_gradient(noise)[1].phi.classifier).values())


def test_a_label_holds_however_improbable_it_makes_the_row(noise: np.ndarray) -> None:
    """The classes differ by more than the logarithm of what the program rules a class out by."""
    of = problem("gaussian")
    of = of._replace(prior=of.prior._replace(noise_scale=np.array(1e-3)))
    by_label = np.stack([of.labelled(k).rows(closed_form.log_weights, noise) for k in range(CLASSES)])
    assert np.ptp(by_label, axis=0).max() > 1e5
    of = of.labelled(by_label.argmin(0))
    assert of.value(noise) == pytest.approx(by_label.min(0).sum(), rel=1e-13)
    np.testing.assert_allclose(of.rows(closed_form.log_weights, noise), by_label.min(0), rtol=1e-13)


# --- the gradient, and the libraries ----------------------------------------------------------------------------------


@every_likelihood
def test_the_gradient_is_the_slope_of_the_value(likelihood: str, noise: np.ndarray) -> None:
    """Along random directions, by central differences of the sixth order."""
    of, rng, step = problem(likelihood).weighted(0.7), np.random.default_rng(3), 2e-3
    gradient = of.value_and_gradient(noise)[1]
    for _ in range(6):
        way = map_leaves(lambda _, leaf: rng.normal(size=np.shape(leaf)), of.params)

        def at(move: float, way: lz.Params = way) -> float:
            return of._replace(params=map_trees(lambda a, b: a + move * b, of.params, way)).value(noise)

        shifts = {1: 45.0, 2: -9.0, 3: 1.0}
        slope = sum(weight * (at(k * step) - at(-k * step)) for k, weight in shifts.items()) / (60.0 * step)
        mine = sum((leaf * leaves(way)[name]).sum() for name, leaf in leaves(gradient).items())
        assert mine == pytest.approx(slope, rel=1e-6)


def automatic(of: Problem, noise: np.ndarray, library: str, total_rows: int) -> tuple[float, dict[str, np.ndarray]]:
    """The library's own ELBO of a minibatch at this noise, and its gradient."""
    auto = backend(library)
    with auto.precision():
        args, kwargs = (of.data, of.prior, of.params), {"total_rows": total_rows}
        pair = Pair(of.zoo.model.on(library), of.zoo.guide.on(library), args, kwargs, 1)
        values, gradient = auto.elbos(pair, pushed)(leaves(of.params), [{"latent": noise}], np.ones(1))
    return float(values[0]), gradient


@pytest.mark.parametrize(
    ("library", "likelihood"), [("pyro", each) for each in LIKELIHOODS] + [("numpyro", "bernoulli")]
)
def test_the_libraries_have_the_same_objective_with_and_without_the_classification_term(
    library: str, likelihood: str, noise: np.ndarray
) -> None:
    """Of both kinds of rows in one minibatch, against each apart; verify has the rest."""
    of = problem(likelihood).weighted(2.5)
    known = MIXED >= 0
    value, gradient = automatic(of, noise, library, total_rows=18)
    parts = [of.part(rows).value_and_gradient(noise[rows]) for rows in (known, ~known)]
    assert value == pytest.approx(3.0 * sum(part for part, _ in parts), rel=1e-12)
    hand = added(*(slope for _, slope in parts))
    for name, leaf in leaves(hand).items():
        np.testing.assert_allclose(gradient[name], 3.0 * leaf, rtol=0, atol=1e-10 * np.abs(leaf).max(), err_msg=name)
    if library == "pyro":  # NumPyro compiles each for seconds
        apart = [automatic(of.part(rows), noise[rows], library, 9)[0] for rows in (known, ~known)]
        assert value == pytest.approx(sum(apart), rel=1e-12)
