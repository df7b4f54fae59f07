"""How clusters that a model found agree with classes that are known: of rows with a label, all others left out."""

import numpy as np
from jaxtyping import Float, Int

from latentzoo.models.language.errors import UserError

Labels = Int[np.ndarray, "rows"]

NEIGHBOURS = 10
MOST_ROWS = 5000  # among which neighbours are looked for


def confusion(cluster: Labels, label: Labels) -> Int[np.ndarray, "clusters classes"]:
    """Return how many rows of each class each cluster has.

    Raises
    ------
    UserError: the arrays are not of the same rows, or no row has a label.
    """
    cluster, label = _known(cluster, label)
    counts = np.zeros((cluster.max() + 1, label.max() + 1), dtype=np.int64)
    np.add.at(counts, (cluster, label), 1)
    return counts


def accuracy(cluster: Labels, label: Labels) -> float:
    """Return the part of the rows that are right when each class is given one cluster, and each cluster one class.

    It is the best such assignment. Where there are more clusters than classes, the rows of those left over are wrong.
    """
    from scipy.optimize import linear_sum_assignment

    counts = confusion(cluster, label)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def scores(cluster: Labels, label: Labels | None) -> dict[str, float]:
    """Return how clusters and classes agree: 1 where they are the same; nothing where no row has a label.

    clustering_accuracy: by the best one-to-one assignment. nmi: the mutual information, divided by the mean of both
    entropies. ari: the adjusted Rand index, of which a partition by chance has 0.
    """
    if label is None or not (np.asarray(label) >= 0).any():
        return {}
    from sklearn import metrics

    known = _known(cluster, label)
    return {
        "clustering_accuracy": accuracy(*known),
        "nmi": float(metrics.normalized_mutual_info_score(*known)),
        "ari": float(metrics.adjusted_rand_score(*known)),
    }


def neighbours_accuracy(codes: Float[np.ndarray, "rows latents"], label: Labels | None) -> dict[str, float]:
    """Return the part of the rows whose class most of the ten other rows with the nearest codes have.

    latent_knn_accuracy: among the rows with a label, the first 5,000; nothing where there are not more than ten.
    """
    if label is None:
        return {}
    known = np.flatnonzero(np.asarray(label) >= 0)[:MOST_ROWS]
    if len(known) <= NEIGHBOURS:
        return {}
    from sklearn.neighbors import NearestNeighbors

    label, codes = np.asarray(label)[known], np.asarray(codes)[known]
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(codes).kneighbors(return_distance=False)
    votes = (label[near][..., None] == np.arange(label.max() + 1)).sum(1)
    return {"latent_knn_accuracy": float((votes.argmax(1) == label).mean())}


def _known(cluster: Labels, label: Labels) -> tuple[Labels, Labels]:
    """Return the rows that have a label."""
    cluster, label = np.asarray(cluster), np.asarray(label)
    if cluster.ndim != 1 or cluster.shape != label.shape:
        raise UserError(f"cluster has shape {cluster.shape} and label {label.shape}: give one of each for every row")
    known = label >= 0
    if not known.any():
        raise UserError("label has no row with a label: there is nothing to compare clusters with")
    return cluster[known], label[known]
