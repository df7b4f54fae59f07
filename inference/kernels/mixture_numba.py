"""The sums of a mixture in numba: blocks of rows whose logits stay in the first-level cache.

What makes it fast: logits in base two, whose exponential takes fewest operations; four components by four features at
a time, so that each number that is loaded is used four times; one logarithm for as many rows as a product of their
totals may have; the features, fewer than the components, are what is divided by the totals, while they are used for
the first time; and the next block is on its way from memory meanwhile. Components are filled up to a multiple of four
with some of weight zero, features with zeros, and the last block with rows that count for nothing: no loop has a
remainder. Loops fill arrays from end to end, since an assignment to a slice and an array made for each block cost as
much as some of these loops.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from latentzoo.inference.kernels.mixture_numpy import MixtureSums, cuts
from latentzoo.inference.kernels.moments import Moments
from latentzoo.inference.kernels.numba_loops import FUSED, REORDERED, compiled, exp2, prefetch
from latentzoo.inference.kernels.threads import share

_BLOCK = 256  # rows: those of 16 components are 32 KB in double precision
_SPANS = 64  # at most; they are the same whatever the cores, and so are the sums
_SPAN_BYTES = 2**22  # of the totals of all spans together
_LOG_2 = math.log(2.0)
_CODES = {"none": 0, "squares": 1, "length": 2, "products": 3}


def sums(moments: Moments, natural: Float[np.ndarray, "features components"]) -> MixtureSums:
    """Return the sums of components that are all alive, as `mixture.mixture_sums` promises."""
    x, centre, quadratic, more = moments
    num_features, num_components = natural.shape
    logits, centre = _padded(natural / _LOG_2, x.dtype), np.asarray(centre, np.float64)
    at_most = max(1, min(_SPANS, _SPAN_BYTES // (8 * logits.size)))
    spans = cuts(len(x), _BLOCK, at_most)
    log_normaliser, statistics = np.zeros(len(spans)), np.zeros((len(spans), *logits.shape))
    code = _CODES[quadratic]
    rest = np.empty((len(x), 0), x.dtype) if more is None else more

    def take_spans(todo: Iterator[int]) -> None:
        for i in todo:
            rows = spans[i]
            log_normaliser[i] = _span(x, centre, code, rest, logits, rows.start, rows.stop, statistics[i])

    share(range(len(spans)), take_spans)
    return MixtureSums(log_normaliser.sum(), statistics.sum(0)[:num_features, :num_components])


def _padded(natural: Float[np.ndarray, "p k"], dtype: Any) -> Float[np.ndarray, "q m"]:
    """Return the parameters with columns of weight zero and rows of zeros, m and q - 1 being multiples of four."""
    num_features, num_components = natural.shape
    padded = np.zeros((1 + -(-(num_features - 1) // 4) * 4, -(-num_components // 4) * 4), dtype)
    padded[0] = np.finfo(dtype).min / 4.0  # -inf times zero would be NaN
    padded[:num_features, :num_components] = natural
    return padded


@compiled(FUSED)
def _span(x: Any, centre: Any, quadratic: Any, more: Any, natural: Any, start: Any, stop: Any, statistics: Any) -> Any:
    """Write the statistics of some rows, and return their log normaliser."""
    num_features, num_components = natural.shape
    feature = np.zeros((num_features, _BLOCK), x.dtype)
    weight = np.empty((num_components, _BLOCK), x.dtype)
    top, total = np.empty(_BLOCK, x.dtype), np.empty(_BLOCK, x.dtype)
    product = np.empty(_BLOCK // 2)
    part = np.empty((num_features, num_components), x.dtype)
    here = np.zeros((num_features, num_components))  # threads that add side by side would fight for a line of the cache
    log_normaliser = 0.0
    for begin in range(start, stop, _BLOCK):
        length = min(_BLOCK, stop - begin)
        _fill(x, centre, quadratic, more, begin, length, feature)
        _logits(natural, feature, weight)
        _maxima(weight, top)
        for k in range(0, num_components, 2):
            _exponentials(weight, k, top, total)
            _ask_for(x, begin + _BLOCK, k, num_components)
        log_normaliser += _log_normaliser(top, total, length, num_components, product)
        _invert(total, length, feature[0])
        _statistics(weight, feature, part)
        for p in range(num_features):
            for k in range(num_components):
                here[p, k] += np.float64(part[p, k])
    statistics[:] = here
    return log_normaliser


@compiled(FUSED)
def _fill(x: Any, centre: Any, quadratic: Any, more: Any, begin: Any, length: Any, feature: Any) -> None:
    """Write the features of a block but the first, which is one: rows beyond its length are at the centre."""
    size = x.shape[1]
    _write_columns(x[begin : begin + length], centre, feature)
    last = 1 + size
    if quadratic == 1:
        for i in range(size):
            column, square = feature[1 + i], feature[last]
            for b in range(_BLOCK):
                square[b] = column[b] * column[b]
            last += 1
    elif quadratic == 2:
        square = feature[last]
        square[:] = 0
        for i in range(size):
            column = feature[1 + i]
            for b in range(_BLOCK):
                square[b] += column[b] * column[b]
        last += 1
    elif quadratic == 3:
        for i in range(size):
            for j in range(i + 1):
                column, other, product = feature[1 + i], feature[1 + j], feature[last]
                for b in range(_BLOCK):
                    product[b] = column[b] * other[b]
                last += 1
    for i in range(more.shape[1]):
        _write(more[begin : begin + length, i], 0.0, feature[last])
        last += 1


@compiled(FUSED)
def _write(values: Any, centre: Any, column: Any) -> None:
    """Write values less their centre, and zeros in the place of those that are missing."""
    for b in range(len(values)):
        column[b] = values[b] - centre
    for b in range(len(values), _BLOCK):
        column[b] = 0


@compiled(FUSED)
def _write_columns(rows: Any, centre: Any, feature: Any) -> None:
    """Write each column of the rows. Two are read as whole vectors: the compiler then knows how far apart rows are."""
    if rows.shape[1] == 2:
        one, other = feature[1], feature[2]
        for b in range(len(rows)):
            one[b] = rows[b, 0] - centre[0]
            other[b] = rows[b, 1] - centre[1]
        for b in range(len(rows), _BLOCK):
            one[b], other[b] = 0, 0
    else:
        for i in range(rows.shape[1]):
            _write(rows[:, i], centre[i], feature[1 + i])


@compiled(REORDERED)
def _logits(natural: Any, feature: Any, weight: Any) -> None:
    """Write the logits in base two."""
    w = natural
    for k in range(0, w.shape[1], 4):
        l0, l1, l2, l3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        c0, c1, c2, c3 = w[0, k], w[0, k + 1], w[0, k + 2], w[0, k + 3]
        for p in range(1, w.shape[0], 4):
            t0, t1, t2, t3 = feature[p], feature[p + 1], feature[p + 2], feature[p + 3]
            w00, w01, w02, w03 = w[p, k], w[p + 1, k], w[p + 2, k], w[p + 3, k]
            w10, w11, w12, w13 = w[p, k + 1], w[p + 1, k + 1], w[p + 2, k + 1], w[p + 3, k + 1]
            w20, w21, w22, w23 = w[p, k + 2], w[p + 1, k + 2], w[p + 2, k + 2], w[p + 3, k + 2]
            w30, w31, w32, w33 = w[p, k + 3], w[p + 1, k + 3], w[p + 2, k + 3], w[p + 3, k + 3]
            first = p == 1  # known outside the loop, which the compiler writes twice
            for b in range(_BLOCK):
                x0, x1, x2, x3 = t0[b], t1[b], t2[b], t3[b]
                l0[b] = (c0 if first else l0[b]) + (w00 * x0 + w01 * x1) + (w02 * x2 + w03 * x3)
                l1[b] = (c1 if first else l1[b]) + (w10 * x0 + w11 * x1) + (w12 * x2 + w13 * x3)
                l2[b] = (c2 if first else l2[b]) + (w20 * x0 + w21 * x1) + (w22 * x2 + w23 * x3)
                l3[b] = (c3 if first else l3[b]) + (w30 * x0 + w31 * x1) + (w32 * x2 + w33 * x3)


@compiled(FUSED)
def _maxima(weight: Any, top: Any) -> None:
    """Write the largest logit of each row."""
    lowest = np.finfo(top.dtype).min  # finite: -inf - -inf would be NaN
    for k in range(0, weight.shape[0], 4):
        l0, l1, l2, l3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        first = k == 0
        for b in range(_BLOCK):
            largest = lowest if first else top[b]
            largest = l0[b] if l0[b] > largest else largest
            largest = l1[b] if l1[b] > largest else largest
            largest = l2[b] if l2[b] > largest else largest
            top[b] = l3[b] if l3[b] > largest else largest


@compiled(FUSED)
def _exponentials(weight: Any, k: Any, top: Any, total: Any) -> None:
    """Turn the logits of two components into weights, the largest of which is one, and add them up."""
    l0, l1 = weight[k], weight[k + 1]
    zero = total.dtype.type(0)
    first = k == 0
    for b in range(_BLOCK):
        w0, w1 = exp2(l0[b] - top[b]), exp2(l1[b] - top[b])
        l0[b], l1[b] = w0, w1
        total[b] = (zero if first else total[b]) + (w0 + w1)


@compiled(FUSED)
def _ask_for(x: Any, begin: Any, k: Any, num_components: Any) -> None:
    """Ask for the rows of a block, those for two components: for all at once there would be a queue."""
    size = _BLOCK * x.shape[1] * x.itemsize
    for byte in range(size * k // num_components, size * (k + 2) // num_components, 64):
        prefetch(x, begin * x.strides[0] + byte)


@compiled(REORDERED)
def _log_normaliser(top: Any, total: Any, length: Any, num_components: Any, product: Any) -> Any:
    """Return the sum of the log normalisers; rows beyond the length add nothing.

    A total is at most the number of components, which tells how many of them have a product that does not overflow.
    """
    for b in range(length, _BLOCK):
        top[b], total[b] = 0, 1
    exponent, width = 0.0, _BLOCK // 2
    for b in range(width):
        exponent += np.float64(top[b]) + np.float64(top[width + b])
        product[b] = np.float64(total[b]) * np.float64(total[width + b])
    # The largest product of twice as many totals as so far is 2^(their number x log2 of the largest total).
    while width > 1 and 2 * _BLOCK // width * math.log2(num_components) < 1023.0:
        width //= 2
        for b in range(width):
            product[b] *= product[width + b]
    log_normaliser = exponent * _LOG_2
    for b in range(width):
        log_normaliser += math.log(product[b])
    return log_normaliser


@compiled(FUSED)
def _invert(total: Any, length: Any, count: Any) -> None:
    """Write one over the totals, and zero for rows without a component and those beyond the length."""
    one, none = total.dtype.type(1), total.dtype.type(0)
    for b in range(_BLOCK):
        count[b] = none if total[b] < one else one / total[b]
    for b in range(length, _BLOCK):
        count[b] = none


@compiled(REORDERED)
def _statistics(weight: Any, feature: Any, out: Any) -> None:
    """Divide the features by the totals, whose inverse the first of them is; write the sums of feature x weight."""
    zero = out.dtype.type(0)
    count = feature[0]
    for k in range(0, weight.shape[0], 4):
        l0, l1, l2, l3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        first = k == 0
        n0, n1, n2, n3 = zero, zero, zero, zero
        for b in range(_BLOCK):
            n0 += l0[b] * count[b]
            n1 += l1[b] * count[b]
            n2 += l2[b] * count[b]
            n3 += l3[b] * count[b]
        out[0, k], out[0, k + 1], out[0, k + 2], out[0, k + 3] = n0, n1, n2, n3
        for p in range(1, feature.shape[0], 4):
            t0, t1, t2, t3 = feature[p], feature[p + 1], feature[p + 2], feature[p + 3]
            a00, a01, a02, a03, a10, a11, a12, a13 = zero, zero, zero, zero, zero, zero, zero, zero
            a20, a21, a22, a23, a30, a31, a32, a33 = zero, zero, zero, zero, zero, zero, zero, zero
            for b in range(_BLOCK):
                x0, x1, x2, x3 = t0[b], t1[b], t2[b], t3[b]
                if first:
                    scale = count[b]
                    x0, x1, x2, x3 = x0 * scale, x1 * scale, x2 * scale, x3 * scale
                    t0[b], t1[b], t2[b], t3[b] = x0, x1, x2, x3
                r0, r1, r2, r3 = l0[b], l1[b], l2[b], l3[b]
                a00, a01, a02, a03 = a00 + r0 * x0, a01 + r0 * x1, a02 + r0 * x2, a03 + r0 * x3
                a10, a11, a12, a13 = a10 + r1 * x0, a11 + r1 * x1, a12 + r1 * x2, a13 + r1 * x3
                a20, a21, a22, a23 = a20 + r2 * x0, a21 + r2 * x1, a22 + r2 * x2, a23 + r2 * x3
                a30, a31, a32, a33 = a30 + r3 * x0, a31 + r3 * x1, a32 + r3 * x2, a33 + r3 * x3
            out[p, k], out[p + 1, k], out[p + 2, k], out[p + 3, k] = a00, a01, a02, a03
            out[p, k + 1], out[p + 1, k + 1], out[p + 2, k + 1], out[p + 3, k + 1] = a10, a11, a12, a13
            out[p, k + 2], out[p + 1, k + 2], out[p + 2, k + 2], out[p + 3, k + 2] = a20, a21, a22, a23
            out[p, k + 3], out[p + 1, k + 3], out[p + 2, k + 3], out[p + 3, k + 3] = a30, a31, a32, a33
