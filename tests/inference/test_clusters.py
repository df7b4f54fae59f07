"""Clusters against classes: by brute force over all assignments, by scikit-learn, and where they are known."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

import latentzoo as lz
from latentzoo.inference import clusters
from latentzoo.models.language.errors import UserError


def drawn(num_clusters: int, num_classes: int, size: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(num_clusters, size=size), rng.integers(num_classes, size=size)


def best_by_force(cluster: np.ndarray, label: np.ndarray) -> float:
    """Give every class one of the clusters, or none, in all ways that there are."""
    num_clusters, num_classes = cluster.max() + 1, label.max() + 1
    names = range(max(num_clusters, num_classes))  # of clusters: those that are not there have no rows
    ways = permutations(names, int(num_classes))
    return max(np.mean([cluster[row] == way[label[row]] for row in range(len(label))]) for way in ways)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(1, 3), (3, 3), (5, 3), (2, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_the_accuracy_is_that_of_the_best_assignment(num_clusters: int, num_classes: int, seed: int) -> None:
    cluster, label = drawn(num_clusters, num_classes, seed=seed)
    assert clusters.accuracy(cluster, label) == pytest.approx(best_by_force(cluster, label), abs=1e-15)


def test_names_of_clusters_and_the_order_of_rows_are_no_matter() -> None:
    cluster, label = drawn(4, 3)
    order = np.random.default_rng(1).permutation(len(label))
    found = clusters.scores(cluster, label)
    assert clusters.scores(np.array([2, 0, 3, 1])[cluster][order], label[order]) == pytest.approx(found, abs=1e-12)
    assert clusters.scores(label, label) == pytest.approx({"clustering_accuracy": 1.0, "nmi": 1.0, "ari": 1.0})


def test_counts_are_those_of_scikit_learn_and_rows_without_a_label_do_not_count() -> None:
    cluster, label = drawn(3, 3)
    some = np.where(np.arange(len(label)) % 4 == 0, -1, label)
    known = some >= 0
    counts = clusters.confusion(cluster, some)
    np.testing.assert_array_equal(counts.T, metrics.confusion_matrix(label[known], cluster[known]))
    assert clusters.scores(cluster, some) == clusters.scores(cluster[known], label[known])
    assert clusters.scores(cluster, None) == clusters.scores(cluster, np.full(len(label), -1)) == {}


def test_neighbours_are_others_than_the_row_itself() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=60)
    codes = rng.normal(size=(60, 2)) + label[:, None]
    right = []
    for row in range(60):
        others = np.arange(60) != row
        model = KNeighborsClassifier(clusters.NEIGHBOURS).fit(codes[others], label[others])
        right.append(model.predict(codes[row, None])[0] == label[row])
    found = clusters.neighbours_accuracy(codes, label)
    assert found == {"latent_knn_accuracy": pytest.approx(np.mean(right))}
    assert 0.4 < np.mean(right) < 1.0
    assert clusters.neighbours_accuracy(codes[:10], label[:10]) == clusters.neighbours_accuracy(codes, None) == {}


@pytest.mark.parametrize(
    ("cluster", "label", "words"),
    [([0, 1], [0], "cluster has shape"), ([0, 1], [-1, -1], "label has no row with a label")],
)
def test_mistakes_are_named(cluster: Any, label: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        clusters.accuracy(np.array(cluster), np.array(label))


def test_models_tell_how_their_clusters_agree() -> None:
    zoo = lz.get("discrete_vae", hidden=(), num_latents=2, num_states=2, likelihood="gaussian")
    # Each variable reads a feature of its own.
    x = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).repeat(5, axis=0)
    params = zoo.init(zoo.Data(x=x), zoo.prior(zoo.Data(x=x)), 0)
    params.phi.encoder["out"].weight[:] = np.array([[-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0]])
    params.phi.encoder["out"].bias[:] = 0.0
    label = np.arange(4).repeat(5)
    code = zoo.closed_form.encoded(params, zoo.Data(x=x), zoo.spec)
    np.testing.assert_array_equal(2 * code[:, 0] + code[:, 1], label)
    np.testing.assert_array_equal(code, zoo.closed_form.predict(params, zoo.Data(x=x), zoo.prior(), zoo.spec)["code"])
