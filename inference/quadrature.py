"""Nodes and weights for expectations over standard normal numbers, E f(e) with e ~ Normal(0, I).

The trapezoid rule on the whole line is exact to rounding for a function that is analytic in a strip around it, with a
step that is read off the width of the strip (Trefethen & Weideman, 2014, theorem 5.1). In more dimensions it is taken
along each axis. Where that is too much, a Sobol sequence takes its place, whose error falls about as 1 / nodes.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

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

    def points(self) -> Float[np.ndarray, "points"]:
        """Return the nodes: multiples of the step."""
        return self.step * np.arange(np.floor(self.low / self.step), np.ceil(self.high / self.step) + 1.0)


def tensor_nodes(axes: Sequence[Axis], rotation: Float[np.ndarray, "dims dims"]) -> Nodes:
    """Return the nodes of every combination of the points on the axes, which are the columns of the rotation."""
    grid = np.meshgrid(*(axis.points() for axis in axes), indexing="ij")
    along = np.stack([column.ravel() for column in grid], axis=1)
    log_steps = sum(np.log(axis.step) for axis in axes)
    return Nodes(along @ rotation.T, log_steps - 0.5 * (along**2).sum(1) - len(axes) * HALF_LOG_2PI)


@functools.cache
def sobol_nodes(num_dims: int) -> Nodes:
    """Return normal nodes made of a scrambled Sobol sequence and its mirror image, always the same."""
    from scipy.stats import qmc

    half = ndtri(qmc.Sobol(num_dims, rng=0).random_base2(LOG_SOBOL))
    e = np.concatenate([half, -half])
    return Nodes(e, np.full(len(e), -np.log(len(e))))
