"""What simpler models make of a few labels: baselines for a semi-supervised model, each fitted by hand.

    pseudo_labels        k-means on all rows; a cluster has the label that most of its labelled rows have
    labelled_only        the network of q(label given x), on the rows with a label alone
    classification_rbm   a classification RBM (Larochelle & Bengio, 2008), whose p(label given x) is in closed form

Rows have a label from 0 to K - 1, or -1 for none. With k a class, j a hidden unit, sigma the logistic function and
p_nk the probability of class k given row n:

    (1)  network:  p_nk prop. exp c(x_n)_k,                   d log p_n,y / dc_nk = 1{k = y_n} - p_nk
    (2)  RBM:      o_njk = b_j + U_jk + sum_i x_ni W_ij,      p_nk prop. exp(a_k + sum_j log(1 + exp o_njk))
    (3)            with g_nk = 1{k = y_n} - p_nk:             d/da_k = g_nk,  d/do_njk = g_nk sigma(o_njk)

Both climb sum_n log p_n,y - penalty |weights|^2 / 2 over the rows with a label, by L-BFGS from a seeded start; biases
pay nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from latentzoo.inference.backward import backward, forward
from latentzoo.models.language.contract import check_number, check_whole, flat, from_flat, map_leaves
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Chain, Layers, check_hidden, mlp, start

Features = Float[np.ndarray, "rows features"]
Labels = Int[np.ndarray, "rows"]
Probs = Float[np.ndarray, "rows classes"]

PENALTY = 1e-2  # without one, labels that a network can tell apart have weights without end
NUM_STEPS = 500


class Classifier(Protocol):
    """A model of the label given the features."""

    def predict(self, x: Features) -> Probs:
        """Return the probability of each class for each row."""


# --- the classifier on the labelled rows alone ------------------------------------------------------------------------


class LabelledOnly(NamedTuple):
    """A network (1), with its layers."""

    chain: Chain
    layers: Layers

    def predict(self, x: Features) -> Probs:
        """Return the probability of each class for each row."""
        return softmax(forward(self.chain, self.layers, x)[0], axis=-1)


def labelled_only(
    x: Features,
    label: Labels,
    num_classes: int,
    *,
    hidden: tuple[int, ...] = (64,),
    penalty: float = PENALTY,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
) -> LabelledOnly:
    """Fit the network that is q(label given x) to the rows that have a label.

    Raises
    ------
    UserError: the arrays do not fit, a label is of no class, or no row has one.
    """
    x, is_label = _labelled(x, label, num_classes)
    _check_settings(penalty, num_steps, seed)
    check_hidden(hidden)
    chain = mlp(x.shape[1], hidden, num_classes)
    layers = start(chain, np.random.default_rng(seed))
    return LabelledOnly(
        chain, _climbed(lambda at: network_objective(chain, at, x, is_label), layers, penalty, num_steps)
    )


def network_objective(
    chain: Chain, layers: Layers, x: Features, is_label: Bool[np.ndarray, "rows classes"]
) -> tuple[float, Layers]:
    """Return sum_n log p_n,y of a network and its gradient, by (1)."""
    logits, tape = forward(chain, layers, x)
    log_probs = log_softmax(logits, axis=-1)
    gradient, _ = backward(chain, layers, tape, is_label - np.exp(log_probs))
    return (log_probs * is_label).sum(), gradient


# --- the classification RBM -------------------------------------------------------------------------------------------


class ClassificationRBM(NamedTuple):
    """A classification RBM (2).

    weight: W, of the features. label_weight: U, of the label. hidden_bias: b. label_bias: a.
    """

    weight: Float[np.ndarray, "features hidden"]
    label_weight: Float[np.ndarray, "hidden classes"]
    hidden_bias: Float[np.ndarray, "hidden"]
    label_bias: Float[np.ndarray, "classes"]

    def activations(self, x: Features) -> Float[np.ndarray, "rows hidden classes"]:
        """Return o_njk of (2)."""
        return (x @ self.weight + self.hidden_bias)[..., None] + self.label_weight

    def predict(self, x: Features) -> Probs:
        """Return the probability of each class for each row."""
        return softmax(self.label_bias + np.logaddexp(0.0, self.activations(x)).sum(1), axis=-1)


def classification_rbm(
    x: Features,
    label: Labels,
    num_classes: int,
    *,
    num_hidden: int = 64,
    penalty: float = PENALTY,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
) -> ClassificationRBM:
    """Fit a classification RBM to the labels given the features, by the rows that have a label.

    Raises
    ------
    UserError: the arrays do not fit, a label is of no class, or no row has one.
    """
    x, is_label = _labelled(x, label, num_classes)
    _check_settings(penalty, num_steps, seed)
    check_whole("num_hidden", num_hidden)
    rng, size = np.random.default_rng(seed), x.shape[1]
    weight = rng.normal(size=(size, num_hidden)) / np.sqrt(size + num_hidden)
    label_weight = rng.normal(size=(num_hidden, num_classes)) / np.sqrt(num_hidden + num_classes)
    first = ClassificationRBM(weight, label_weight, np.zeros(num_hidden), np.zeros(num_classes))
    return _climbed(lambda at: rbm_objective(at, x, is_label), first, penalty, num_steps)


def rbm_objective(
    rbm: ClassificationRBM, x: Features, is_label: Bool[np.ndarray, "rows classes"]
) -> tuple[float, ClassificationRBM]:
    """Return sum_n log p_n,y of an RBM and its gradient, by (3)."""
    activations = rbm.activations(x)
    log_probs = log_softmax(rbm.label_bias + np.logaddexp(0.0, activations).sum(1), axis=-1)
    by_score = is_label - np.exp(log_probs)
    by_activation = by_score[:, None, :] * expit(activations)
    by_hidden = by_activation.sum(-1)
    gradient = ClassificationRBM(x.T @ by_hidden, by_activation.sum(0), by_hidden.sum(0), by_score.sum(0))
    return (log_probs * is_label).sum(), gradient


# --- k-means pseudo-labels --------------------------------------------------------------------------------------------


class PseudoLabels(NamedTuple):
    """Clusters with labels: their centres, and the label of each."""

    centres: Float[np.ndarray, "clusters features"]
    label: Int[np.ndarray, "clusters"]
    num_classes: int

    def predict(self, codes: Features) -> Probs:
        """Return 1 for the class of the nearest centre, for each row."""
        return np.eye(self.num_classes)[self.label[_nearest(codes, self.centres)]]


def pseudo_labels(
    codes: Features, label: Labels, num_classes: int, *, num_clusters: int | None = None, seed: int = 0
) -> PseudoLabels:
    """Cluster all rows by k-means, and give each cluster the label that most of its labelled rows have.

    codes: what is clustered, such as the codes of an autoencoder. num_clusters: as many as classes where it is None.
    A cluster without a labelled row has the label of the nearest centre of one that has some.

    Raises
    ------
    UserError: the arrays do not fit, a label is of no class, or no row has one.
    """
    from sklearn.cluster import KMeans

    codes, label = _checked(codes, label, num_classes)
    num_clusters = num_classes if num_clusters is None else num_clusters
    check_whole("num_clusters", num_clusters)
    check_whole("seed", seed, least=0)
    if num_clusters > len(codes):
        raise UserError(f"num_clusters is {num_clusters}: there are {len(codes)} rows, take no more clusters than rows")
    centres = KMeans(num_clusters, n_init=10, random_state=seed).fit(codes).cluster_centers_
    votes = np.zeros((num_clusters, num_classes))
    known = label >= 0
    np.add.at(votes, (_nearest(codes[known], centres), label[known]), 1.0)
    voted = np.flatnonzero(votes.any(1))
    return PseudoLabels(centres, votes.argmax(1)[voted[_nearest(centres, centres[voted])]], num_classes)


def _nearest(points: Features, centres: Features) -> Int[np.ndarray, "rows"]:
    """Return which centre is nearest to each point."""
    return ((centres**2).sum(1) - 2.0 * points @ centres.T).argmin(1)


# --- comparing --------------------------------------------------------------------------------------------------------


def accuracies(models: Mapping[str, tuple[Classifier, Features]], label: Labels) -> dict[str, float]:
    """Return the part of the rows with a label whose most probable class it is, by model.

    models: by name, a model and what it takes of these rows: features, or codes.
    """
    known = np.asarray(label) >= 0
    if not known.any():
        raise UserError("label has no row with a label: there is nothing to compare with")
    right = {name: model.predict(x).argmax(-1) == label for name, (model, x) in models.items()}
    return {name: float(each[known].mean()) for name, each in right.items()}


# --- what the fits share ----------------------------------------------------------------------------------------------


def _checked(x: Any, label: Any, num_classes: int) -> tuple[Features, Labels]:
    """Return features and labels as arrays."""
    check_whole("num_classes", num_classes, least=2)
    x, label = np.asarray(x, dtype=np.float64), np.asarray(label)
    if x.ndim != 2 or label.shape != x.shape[:1] or not x.size:
        raise UserError(f"x has shape {x.shape} and label {label.shape}: give (rows, features) and (rows,)")
    if not np.isfinite(x).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(x))[0])
        raise UserError(f"x[{row}, {column}] is {x[row, column]:g}: it must be finite")
    wrong = ~np.isin(label, np.arange(-1, num_classes))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(f"label[{row}] is {label[row]}: it must be from 0 to {num_classes - 1}, or -1 for none")
    if not (label >= 0).any():
        raise UserError("label has no row with a label: a baseline needs some")
    return x, label.astype(np.int64)


def _labelled(x: Any, label: Any, num_classes: int) -> tuple[Features, Bool[np.ndarray, "rows classes"]]:
    """Return the rows that have a label, and whether each class is it."""
    x, label = _checked(x, label, num_classes)
    known = label >= 0
    return x[known], label[known, None] == np.arange(num_classes)


def _check_settings(penalty: float, num_steps: int, seed: int) -> None:
    check_number("penalty", penalty, least=0.0)
    check_whole("num_steps", num_steps)
    check_whole("seed", seed, least=0)


def _climbed(objective: Callable[[Any], tuple[float, Any]], first: Any, penalty: float, num_steps: int) -> Any:
    """Return where L-BFGS on a value and its gradient ends, less the penalty of the weights: leaves of two axes."""
    pays = penalty * flat(map_leaves(lambda _, leaf: np.full(np.shape(leaf), float(np.ndim(leaf) == 2)), first))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(from_flat(point, first))
        return 0.5 * pays @ point**2 - value, pays * point - flat(gradient)

    found = minimize(loss, flat(first), jac=True, method="L-BFGS-B", options={"maxiter": num_steps})
    return from_flat(found.x, first)
