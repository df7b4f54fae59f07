"""The sums of a mixture in NumPy: chunks of rows whose work arrays fit a core's cache."""

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference.kernels.moments import Moments, fill
from latentzoo.inference.kernels.threads import share

# A chunk's work arrays fit the second-level cache of today's cores; calls from Python cost a tenth of what they do.
_CHUNK_BYTES = 2**20
# OpenBLAS starts threads of its own, which fight ours, for matrix products with more multiplications than this.
_CHUNK_PRODUCTS = 2**19
# Rows are cut the same way whatever the cores, so that the sums are the same to the bit; this many jobs are shared.
_SPANS = 64


class MixtureSums(NamedTuple):
    """What a pass over the rows yields; the sums of two sets of rows add up to those of their union."""

    log_normaliser: Float[Any, ""]
    """The sum over rows of log sum_k exp(logit[k, row])."""
    statistics: Float[Any, "features components"]
    """The sum over rows of feature[row] * responsibility[k, row]: the gradient of the log normaliser."""


def sums(moments: Moments, natural: Float[np.ndarray, "features components"]) -> MixtureSums:
    """Return the sums of components that are all alive, as `mixture.mixture_sums` promises."""
    natural = natural.astype(moments.x.dtype)
    chunk = _chunk_rows(natural)
    spans = cuts(len(moments.x), chunk, _SPANS)
    nothing = MixtureSums(np.float64(0), np.zeros(natural.shape))
    found = [nothing] * len(spans)

    def take_spans(todo: Iterator[int]) -> None:
        work = _Chunk(natural, chunk)
        for i in todo:
            work.careful = False
            starts = range(spans[i].start, spans[i].stop, chunk)
            parts = (moments.take(slice(start, min(start + chunk, spans[i].stop))) for start in starts)
            found[i] = reduce(_add, map(work.sums, parts), nothing)

    share(range(len(spans)), take_spans)
    return reduce(_add, found, nothing)


def cuts(num_rows: int, chunk: int, at_most: int) -> list[range]:
    """Return spans of rows, each of whole chunks but the last: the same ones whatever the cores."""
    span = chunk * max(1, -(-num_rows // (chunk * at_most)))
    return [range(start, min(start + span, num_rows)) for start in range(0, num_rows, span)]


class _Chunk:
    """The work arrays of one thread, and the sums of a chunk of rows computed in them."""

    def __init__(self, natural: Float[np.ndarray, "p k"], length: int) -> None:
        features, components = natural.shape
        self.natural = natural.T
        # Components by rows: whatever runs over components then runs along whole rows of the array, which vectorises.
        self.weights = np.empty((components, length), natural.dtype)
        self.feature = np.empty((features, length), natural.dtype)
        self.top, self.total = np.empty((2, length), natural.dtype)
        self.ones = np.ones(components, natural.dtype)
        limits = np.finfo(natural.dtype)
        self.lowest, self.low, self.high = limits.min, np.sqrt(limits.tiny), np.sqrt(limits.max)
        self.careful = False

    def sums(self, moments: Moments) -> MixtureSums:
        """Return the sums of at most `length` rows."""
        num_rows = len(moments.x)
        weights, feature = self.weights[:, :num_rows], fill(moments, self.feature[:, :num_rows])
        top, total = self.top[:num_rows], self.total[:num_rows]
        if not self.careful:
            self._weigh(feature, weights, top, total)
            # While no total comes near the ends of its range, exp alone is as exact as after subtracting the maximum,
            # and a fifth faster. The first one that does (or is NaN) makes the thread careful until its span ends.
            self.careful = not self.low < total.min() <= total.max() < self.high
        if self.careful:
            self._weigh(feature, weights, top, total)
            impossible = total == 0
            np.copyto(top, -np.inf, where=impossible)
            np.copyto(total, 1, where=impossible)
        np.divide(feature, total, out=feature)  # fewer numbers to divide than responsibilities
        statistics = feature @ weights.T
        log_normaliser = np.sum(top, dtype=np.float64) + np.sum(np.log(total, out=total), dtype=np.float64)
        return MixtureSums(log_normaliser, statistics)

    def _weigh(self, feature: Any, weights: Any, top: Any, total: Any) -> None:
        """Fill in weights = exp(logits - top), with top = 0 unless careful, and their totals over components."""
        np.matmul(self.natural, feature, out=weights)
        if self.careful:
            np.max(weights, axis=0, initial=self.lowest, out=top)
            np.subtract(weights, top, out=weights)
        else:
            top.fill(0)
        with np.errstate(over="ignore"):
            np.exp(weights, out=weights)
        np.matmul(self.ones, weights, out=total)  # twice as fast as np.sum


def _add(one: MixtureSums, other: MixtureSums) -> MixtureSums:
    return MixtureSums(*map(add, one, other))


def _chunk_rows(natural: Float[np.ndarray, "p k"]) -> int:
    """Return how many rows a chunk has: the shape and precision of the model decide, and nothing else."""
    features, components = natural.shape
    by_cache = _CHUNK_BYTES // (natural.itemsize * (features + components + 2))
    return max(128, min(by_cache, _CHUNK_PRODUCTS // max(1, natural.size)))
