"""The likelihoods of the bigrams in numba, and their products with both tables: a pass over the rows for each.

A thread that adds to a table has a range of its lines to itself. It looks at every row, in their order, and takes
those of its range: nothing is added twice over, the rows need not be sorted, and each line is the same sum, to the bit,
however many threads there are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from latentzoo.inference.kernels.numba_loops import FUSED, REORDERED, compiled
from latentzoo.inference.kernels.threads import cores, share

_BLOCK = 512  # rows that are looked at before those of the range are taken


def likelihoods(
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    by_context: Float[np.ndarray, "contexts classes"],
    by_word: Float[np.ndarray, "words classes"],
) -> Float[np.ndarray, "rows"]:
    """Return the product of the lines of both tables that each row names; the rows are a chunk, in one thread."""
    found = np.empty(len(word))
    _products(context, word, by_context, by_word, found)
    return found


def expected(
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    weight: Float[np.ndarray, "rows"],
    by_context: Float[np.ndarray, "contexts classes"],
    by_word: Float[np.ndarray, "words classes"],
) -> tuple[Float[np.ndarray, "contexts classes"], Float[np.ndarray, "words classes"]]:
    """Return P * (W Q) and Q * (W' P), W being the sparse matrix of the weights; through every core."""
    return (
        _table(context, word, weight, by_context, by_word),
        _table(word, context, weight, by_word, by_context),
    )


def _table(line: Any, other: Any, weight: Any, table: Any, factor: Any) -> Float[np.ndarray, "lines classes"]:
    """Return, for each line of a table, its product with the sum over its rows of weight * factor[other]."""
    sums = np.zeros_like(table)

    def take_ranges(todo: Iterator[tuple[int, int]]) -> None:
        for low, high in todo:
            _add(line, other, weight, factor, sums, low, high)
            sums[low:high] *= table[low:high]

    share(_ranges(line, len(table)), take_ranges)
    return sums


def _ranges(line: Int[np.ndarray, "rows"], length: int) -> list[tuple[int, int]]:
    """Return a range of lines for each core, with about as many rows in each."""
    reached = np.cumsum(np.bincount(line, minlength=length))
    wanted = len(line) / cores() * np.arange(1, cores())
    cuts = np.unique([0, *np.searchsorted(reached, wanted), length])
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))


@compiled(REORDERED)
def _products(context: Any, word: Any, by_context: Any, by_word: Any, out: Any) -> None:
    """Write the product of two lines for each row."""
    for row in range(len(word)):
        one, other = by_context[context[row]], by_word[word[row]]
        total = 0.0
        for z in range(one.shape[0]):
            total += one[z] * other[z]
        out[row] = total


@compiled(FUSED)
def _add(line: Any, other: Any, weight: Any, factor: Any, sums: Any, low: Any, high: Any) -> None:
    """Add weight * factor[other] to the lines from low to high, row by row."""
    taken = np.empty(_BLOCK, np.int64)
    for start in range(0, len(line), _BLOCK):
        found = 0
        for row in range(start, min(start + _BLOCK, len(line))):  # without a branch, which none could foresee
            taken[found] = row
            found += (low <= line[row]) & (line[row] < high)
        for row in taken[:found]:
            total, terms, part = sums[line[row]], factor[other[row]], weight[row]
            for z in range(total.shape[0]):
                total[z] += part * terms[z]
