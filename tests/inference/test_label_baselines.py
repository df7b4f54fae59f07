"""The baselines of semi-supervised models against sums over all hidden states, autograd, scikit-learn and mistakes."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from latentzoo.inference import label_baselines as baselines
from latentzoo.models.language.contract import leaves, map_leaves
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import mlp, start


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def blobs(
    rng: np.random.Generator, num_rows: int = 150, known: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three clouds that are far apart: rows, the labels that are known, and all of them."""
    truth = np.arange(num_rows) % 3
    x = 4.0 * np.eye(3)[truth] + 0.4 * rng.normal(size=(num_rows, 3))
    label = np.where(rng.random(num_rows) < known, truth, -1)
    label[:3] = truth[:3]
    return x, label, truth


def random_rbm(
    rng: np.random.Generator, hidden: int = 4, size: int = 3, classes: int = 3
) -> baselines.ClassificationRBM:
    shapes = ((size, hidden), (hidden, classes), (hidden,), (classes,))
    return baselines.ClassificationRBM(*(rng.normal(size=shape) for shape in shapes))


def test_the_rbm_sums_over_its_hidden_units(rng: np.random.Generator) -> None:
    """exp(-energy) over all 2^4 states of the hidden units, normalised over the classes."""
    rbm, x = random_rbm(rng), rng.normal(size=(5, 3))
    log_joint = np.empty((5, 3))
    for row, label in itertools.product(range(5), range(3)):
        states = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
        energies = states @ (rbm.weight.T @ x[row] + rbm.hidden_bias + rbm.label_weight[:, label])
        log_joint[row, label] = rbm.label_bias[label] + logsumexp(energies)
    expected = np.exp(log_joint - logsumexp(log_joint, axis=1)[:, None])
    np.testing.assert_allclose(rbm.predict(x), expected, rtol=1e-12)


def test_the_gradient_of_the_rbm_is_that_of_autograd(rng: np.random.Generator) -> None:
    rbm, x, label = random_rbm(rng), rng.normal(size=(7, 3)), rng.integers(3, size=7)
    value, gradient = baselines.rbm_objective(rbm, x, label[:, None] == np.arange(3))
    at = [torch.tensor(leaf, requires_grad=True) for leaf in rbm]
    weight, label_weight, hidden_bias, label_bias = at
    activation = (torch.tensor(x) @ weight + hidden_bias)[..., None] + label_weight
    score = label_bias + torch.nn.functional.softplus(activation).sum(1)
    loss = -torch.nn.functional.cross_entropy(score, torch.tensor(label), reduction="sum")
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for mine, other in zip(gradient, torch.autograd.grad(loss, at), strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=0, atol=1e-12)


def test_the_gradient_of_the_network_is_the_slope_of_its_value(rng: np.random.Generator) -> None:
    """By the complex step: the derivative without cancellation."""
    chain = mlp(3, (4,), 3)
    layers = map_leaves(lambda _, leaf: leaf + 0.3 * rng.normal(size=leaf.shape), start(chain, rng))
    x, is_label = rng.normal(size=(6, 3)), np.arange(3) == rng.integers(3, size=(6, 1))
    _, gradient = baselines.network_objective(chain, layers, x, is_label)
    for name, leaf in leaves(layers).items():
        for place in np.ndindex(leaf.shape):
            moved = leaf.astype(complex)
            moved[place] += 1e-30j
            there = map_leaves(lambda path, each, name=name, moved=moved: moved if path == name else each, layers)
            slope = baselines.network_objective(chain, there, x, is_label)[0].imag / 1e-30
            assert leaves(gradient)[name][place] == pytest.approx(slope, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("fit", [baselines.labelled_only, baselines.classification_rbm, baselines.pseudo_labels])
def test_clouds_that_are_far_apart_are_told_apart(rng: np.random.Generator, fit) -> None:
    x, label, truth = blobs(rng)
    model = fit(x, label, 3, seed=1)
    probs = model.predict(x)
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-12)
    assert baselines.accuracies({"it": (model, x)}, truth) == {"it": 1.0}
    assert (fit(x, label, 3, seed=1).predict(x) == probs).all()


@pytest.mark.parametrize("fit", [baselines.labelled_only, baselines.classification_rbm])
def test_rows_without_a_label_change_nothing(rng: np.random.Generator, fit) -> None:
    x, label, _ = blobs(rng)
    known = label >= 0
    np.testing.assert_array_equal(fit(x, label, 3).predict(x), fit(x[known], label[known], 3).predict(x))


def test_a_network_without_hidden_layers_is_logistic_regression(rng: np.random.Generator) -> None:
    """scikit-learn's, whose C is one over the penalty, and whose intercept pays nothing either."""
    from sklearn import linear_model

    x, truth = rng.normal(size=(60, 2)), rng.integers(3, size=60)
    mine = baselines.labelled_only(x, truth, 3, hidden=(), penalty=2.0, num_steps=5000)
    peer = linear_model.LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(x, truth)
    np.testing.assert_allclose(mine.predict(x), peer.predict_proba(x), atol=1e-4)


def test_a_cluster_has_the_label_of_most_of_its_rows(rng: np.random.Generator) -> None:
    codes = np.concatenate([np.full((10, 1), place) for place in (0.0, 10.0, 13.0)])
    label = np.full(30, -1)
    label[:3], label[10:13] = [0, 1, 1], [0, 0, 1]  # none in the third cloud, whose nearest is the second
    model = baselines.pseudo_labels(codes, label, 2, num_clusters=3)
    assert model.predict(np.array([[0.5], [9.0], [14.0]])).argmax(1).tolist() == [1, 0, 0]


def test_accuracy_is_of_the_rows_with_a_label(rng: np.random.Generator) -> None:
    x, _, truth = blobs(rng)
    model = baselines.labelled_only(x, truth, 3)
    wrong = (truth + 1) % 3
    half = np.where(np.arange(150) < 50, truth, np.where(np.arange(150) < 100, wrong, -1))
    assert baselines.accuracies({"a": (model, x), "b": (model, x)}, half) == {"a": 0.5, "b": 0.5}


X = np.zeros((2, 3))


@pytest.mark.parametrize("fit", [baselines.labelled_only, baselines.classification_rbm, baselines.pseudo_labels])
@pytest.mark.parametrize(
    ("x", "label", "classes", "words"),
    [
        (X, [0, 2], 2, "label[1] is 2: it must be from 0 to 1"),
        (X, [0.5, 1.0], 2, "label[0] is 0.5"),
        (X, [-1, -1], 2, "no row with a label"),
        (X, [0, 1, 1], 2, "x has shape (2, 3) and label (3,)"),
        (np.zeros(2), [0, 1], 2, "x has shape (2,)"),
        (np.array([[0.0], [np.nan]]), [0, 1], 2, "x[1, 0] is nan"),
        (X, [0, 1], 1, "num_classes is 1"),
    ],
)
def test_a_mistake_is_one_line(fit, x, label, classes, words) -> None:
    with pytest.raises(UserError) as raised:
        fit(x, label, classes)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_out_of_range() -> None:
    for fit, options, words in [
        (baselines.labelled_only, {"penalty": -1.0}, "penalty is -1"),
        (baselines.labelled_only, {"hidden": (0,)}, "hidden has a layer of 0"),
        (baselines.classification_rbm, {"num_hidden": 0}, "num_hidden is 0"),
        (baselines.classification_rbm, {"num_steps": 0}, "num_steps is 0"),
        (baselines.pseudo_labels, {"num_clusters": 3}, "there are 2 rows"),
    ]:
        with pytest.raises(UserError) as raised:
            fit(X, [0, 1], 2, **options)
        assert words in str(raised.value)
    with pytest.raises(UserError, match="nothing to compare"):
        baselines.accuracies({}, np.array([-1, -1]))
