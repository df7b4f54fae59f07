"""Nodes and weights for expectations over standard normal numbers, E f(e) with e ~ Normal(0, I).

The trapezoid rule on the whole line is exact to rounding for a function that is analytic in a strip around it, with a
step that is read off the width of the strip (Trefethen & Weideman, 2014, theorem 5.1). In more dimensions the nodes of
several rules are combined. Where they are too many a Sobol sequence takes their place, whose error falls about as
1 / nodes.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, ndtri

REACH = 9.0  # standard deviations, beyond which a Gaussian is below rounding
EXPONENT = 37.0  # exp(-37) is rounding
HALF_LOG_2PI = 0.5 * np.log(2.0 * np.pi)
LOG_SOBOL = 14  # of the points of a Sobol sequence, to the base 2; each is taken with its mirror image


class Nodes(NamedTuple):
    """Where to evaluate f, and with what weights: E f(e) is the sum of exp(log_weight) f(e)."""

    e: Float[np.ndarray, "nodes dims"]
    log_weight: Float[np.ndarray, "nodes"]


class Axis(NamedTuple):
    """One axis of a function that falls off like a Gaussian.

    low, high: beyond which f(e) exp(-e^2 / 2) is below rounding.
    precision: of the narrowest Gaussian in it.
    strip: how far from the real line the nearest singularity is, in the complex plane.
    """

    low: float
    high: float
    precision: float
    strip: float

    @property
    def step(self) -> float:
        """The step h: the error exp(precision y^2 / 2 - 2 pi y / h) is rounding for some y within the strip."""
        y = min(self.strip, np.sqrt(2.0 * EXPONENT / self.precision))
        return 2.0 * np.pi * y / (EXPONENT + 0.5 * self.precision * y**2)

    @property
    def size(self) -> float:
        """How many nodes it takes."""
        return np.ceil((self.high - self.low) / self.step) + 1.0

    def nodes(self) -> Nodes:
        """Return the nodes: multiples of the step."""
        e = self.step * np.arange(np.floor(self.low / self.step), np.ceil(self.high / self.step) + 1.0)
        return Nodes(e[:, None], np.log(self.step) - 0.5 * e**2 - HALF_LOG_2PI)


def cubic_nodes(num_dims: int) -> Nodes:
    """Return the 2 num_dims nodes of a rule that is exact for polynomials up to degree three (Stroud, 1971, 3-1)."""
    far = np.sqrt(num_dims) * np.eye(num_dims)
    return Nodes(np.concatenate([far, -far]), np.full(2 * num_dims, -np.log(2.0 * num_dims)))


def product(parts: Sequence[Nodes]) -> Nodes:
    """Return every combination of the nodes of some coordinates with those of the next."""
    return functools.reduce(_pairs, parts)


def _pairs(left: Nodes, right: Nodes) -> Nodes:
    first, second = np.indices((len(left.e), len(right.e))).reshape(2, -1)
    e = np.concatenate([left.e[first], right.e[second]], axis=1)
    return Nodes(e, left.log_weight[first] + right.log_weight[second])


@functools.cache
def sobol_nodes(num_dims: int) -> Nodes:
    """Return normal nodes made of a scrambled Sobol sequence, always the same: exact for polynomials to degree three.

    Each point has its mirror image, and all are stretched until their covariance is that of a standard normal.
    """
    from scipy.stats import qmc

    half = ndtri(qmc.Sobol(num_dims, rng=0).random_base2(LOG_SOBOL))
    half = np.linalg.solve(np.linalg.cholesky(half.T @ half / len(half)), half.T).T
    e = np.concatenate([half, -half])
    return Nodes(e, np.full(len(e), -np.log(len(e))))


def mixture_nodes(
    share: Float[np.ndarray, "parts"],
    mean: Float[np.ndarray, "parts dims"],
    precision: Float[np.ndarray, "parts dims dims"],
) -> Nodes:
    """Return nodes of a Sobol sequence for functions that are large where a mixture of Gaussians is, and not e itself.

    Each part has nodes of its own, which are weighed by the density of e over that of the mixture (Owen & Zhou, 2000):
    the weights are bounded wherever the mixture bounds the function.
    """
    unit, places, log_parts = sobol_nodes(mean.shape[1]), [], []
    for centre, each in zip(mean, precision, strict=True):
        places.append(centre + np.linalg.solve(np.linalg.cholesky(each).T, unit.e.T).T)
    e = np.concatenate(places)
    for part, centre, each in zip(share, mean, precision, strict=True):
        squared = (((e - centre) @ np.linalg.cholesky(each)) ** 2).sum(1)
        log_parts.append(np.log(part) + 0.5 * np.linalg.slogdet(each)[1] - 0.5 * squared)
    own = np.repeat(np.log(share), len(unit.e)) + np.tile(unit.log_weight, len(share))
    return Nodes(e, own - 0.5 * (e**2).sum(1) - logsumexp(log_parts, axis=0))
