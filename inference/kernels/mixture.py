"""The one computation behind every exponential-family mixture, in cache-sized chunks of rows.

With natural parameters `W` (a column a component) and sufficient statistics `T(x)` (a column a row of the data), the
logits of the responsibilities `R` are `W' T`. Their log normaliser is the log likelihood of point parameters (EM) or
the local part of a bound (expected parameters, CAVI), and its gradient with respect to `W` is `T R'`, the expected
statistics that the next M-step needs. Both are sums over rows, so neither rows x components nor rows x features is
ever in memory: each chunk lives and dies in a core's cache.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import leaves, num_rows, take_rows

Rows = TypeVar("Rows")

# A chunk's work arrays fit the second-level cache of today's cores; calls from Python cost a tenth of what they do.
_CHUNK_BYTES = 2**20
# OpenBLAS starts threads of its own, which fight ours, for matrix products with more multiplications than this.
_CHUNK_PRODUCTS = 2**19
# Rows are cut the same way whatever the cores, so that the sums are the same to the bit; this many threads share them.
_SPANS = 64


class MixtureSums(NamedTuple):
    """What a pass over the rows yields; the sums of two sets of rows add up to those of their union."""

    log_normaliser: Float[Any, ""]
    """The sum over rows of log sum_k exp(logit[k, row])."""
    statistics: Float[Any, "features components"]
    """The sum over rows of feature[row] * responsibility[k, row]: the gradient of the log normaliser."""


def mixture_sums(
    features: Callable[[Rows], Float[Any, "features rows"]],
    rows: Rows,
    natural_parameters: Float[Any, "features components"],
) -> MixtureSums:
    """Return the log normaliser and the expected sufficient statistics of a mixture, summed over rows.

    NumPy arrays go chunk by chunk through every core this process may use; the result does not depend, to the bit, on
    how many there are. Float32 features are computed in float32, all others in float64, and the totals are float64.
    Arrays of any other namespace (jax) go through the plain expression, which can be jitted and differentiated.

    Parameters
    ----------
    features: the sufficient statistics of some rows, a column each. It is called on chunks, from several threads.
    rows: a NamedTuple of arrays that share their leading axis; None fields stay None. Centre coordinates first: the
        logits lose the digits of a large common offset.
    natural_parameters: finite, but for -inf in the first row, which marks a component of weight zero: it is left out,
        with responsibilities and statistics of exactly zero. A row that no component explains has log normaliser -inf
        and adds nothing to the statistics.

    Raises
    ------
    ValueError: `features` and `natural_parameters` differ in the number of features.
    """
    arrays = [natural_parameters, *leaves(rows).values()]
    foreign = [array for array in arrays if not isinstance(array, np.ndarray)]
    if foreign:
        return _plain(foreign[0].__array_namespace__(), features(rows), natural_parameters)
    live = natural_parameters[0] != -np.inf
    sums = _chunked(features, rows, natural_parameters[:, live])
    statistics = np.zeros(natural_parameters.shape)
    statistics[:, live] = sums.statistics
    return MixtureSums(sums.log_normaliser, statistics)


def _plain(xp: Any, feature: Float[Any, "p n"], natural: Float[Any, "p k"]) -> MixtureSums:
    """Return the sums as one expression: what it computes is what `_Chunk.sums` computes in place."""
    live = natural[0] != -xp.inf
    logits = xp.where(live, natural, 0).T @ feature  # 0 * -inf would be NaN
    logits = xp.where(live[:, None], logits, -xp.inf)
    top = xp.max(logits, axis=0, initial=xp.finfo(logits.dtype).min)  # finite: -inf - -inf would be NaN
    weights = xp.exp(logits - top)
    total = xp.sum(weights, axis=0)
    impossible = total == 0
    top, total = xp.where(impossible, -xp.inf, top), xp.where(impossible, 1, total)
    return MixtureSums(xp.sum(top + xp.log(total)), (feature / total) @ weights.T)


class _Chunk:
    """The work arrays of one thread, and the sums of a chunk of rows computed in them."""

    def __init__(self, natural: Float[np.ndarray, "p k"], length: int) -> None:
        features, components = natural.shape
        self.natural = natural.T
        # Components by rows: whatever runs over components then runs along whole rows of the array, which vectorises.
        self.weights = np.empty((components, length), natural.dtype)
        self.scaled = np.empty((features, length), natural.dtype)
        self.top, self.total = np.empty((2, length), natural.dtype)
        self.ones = np.ones(components, natural.dtype)
        limits = np.finfo(natural.dtype)
        self.lowest, self.low, self.high = limits.min, np.sqrt(limits.tiny), np.sqrt(limits.max)
        self.careful = False

    def sums(self, feature: Float[np.ndarray, "p n"]) -> MixtureSums:
        """Return the sums of at most `length` rows."""
        weights, scaled = self.weights[:, : feature.shape[1]], self.scaled[:, : feature.shape[1]]
        top, total = self.top[: feature.shape[1]], self.total[: feature.shape[1]]
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
        np.divide(feature, total, out=scaled)  # fewer numbers to divide than responsibilities
        statistics = scaled @ weights.T
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


def _chunked(features: Callable[[Rows], Any], rows: Rows, natural: Float[np.ndarray, "p k"]) -> MixtureSums:
    """Return the sums over spans of rows, which the threads take in any order and which are added in theirs."""
    natural = natural.astype(np.result_type(features(take_rows(rows, slice(1))), np.float32))
    length, chunk = num_rows(rows) or 0, _chunk_rows(natural)
    span = chunk * max(1, -(-length // (chunk * _SPANS)))
    cuts = [range(start, min(start + span, length), chunk) for start in range(0, length, span)]
    sums = [MixtureSums(np.float64(0), np.zeros(natural.shape))] * len(cuts)
    todo = iter(range(len(cuts)))

    def take_spans() -> None:
        work = _Chunk(natural, chunk)
        for i in todo:
            work.careful = False
            parts = (features(take_rows(rows, slice(cut, min(cut + chunk, length)))) for cut in cuts[i])
            sums[i] = reduce(_add, map(work.sums, parts), sums[i])

    threads = min(_cores(), len(cuts))
    if threads < 2:
        take_spans()
    else:
        with ThreadPoolExecutor(threads) as pool:  # NumPy and BLAS release the interpreter's lock
            for done in [pool.submit(take_spans) for _ in range(threads)]:
                done.result()
    return reduce(_add, sums, MixtureSums(np.float64(0), np.zeros(natural.shape)))


def _add(one: MixtureSums, other: MixtureSums) -> MixtureSums:
    return MixtureSums(*map(add, one, other))


def _chunk_rows(natural: Float[np.ndarray, "p k"]) -> int:
    """Return how many rows a chunk has: the shape and precision of the model decide, and nothing else."""
    features, components = natural.shape
    by_cache = _CHUNK_BYTES // (natural.itemsize * (2 * features + components + 2))
    return max(128, min(by_cache, _CHUNK_PRODUCTS // max(1, natural.size)))


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
