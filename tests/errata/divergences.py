"""What the notes lose on the way to the divergence of two normals."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats

from latentzoo.inference.divergences import kl_normal

Check = Callable[..., None]


def test_divergences_two_normals(check: Check) -> None:
    """By Gauss-Hermite nodes, which integrate the quadratic log ratio of two normals exactly."""
    mean, other = np.array([1.0, -0.5]), np.array([0.0, 1.0])
    covariance, wide = np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([[2.0, -0.4], [-0.4, 1.5]])
    factors = np.linalg.cholesky(covariance), np.linalg.cholesky(wide)
    nodes, weights = hermegauss(3)
    points = mean + np.array(list(itertools.product(nodes, repeat=2))) @ factors[0].T
    of_points = np.outer(weights, weights).ravel() / weights.sum() ** 2

    def truth(centre: np.ndarray) -> float:
        p, q = stats.multivariate_normal(mean, covariance), stats.multivariate_normal(centre, wide)
        return float(of_points @ (p.logpdf(points) - q.logpdf(points)))

    def zoo(centre: np.ndarray) -> float:
        return float(kl_normal(mean, factors[0], centre, factors[1]))

    half_lost = zoo(other) + 2.0 / 2.0 - 2.0  # E_p log p with - K where - K / 2 belongs, K = 2
    check(
        ("KL, with q = N(mu_1, S_2)", zoo(mean), zoo(other), truth(other), 0.8),
        ("KL, with K for K / 2", half_lost, zoo(other), truth(other), 0.9),
        ("KL where mu_1 = mu_2, with q = N(mu_1, S_2)", zoo(mean), zoo(mean), truth(mean), 0.0),
    )
