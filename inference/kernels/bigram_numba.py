"""The likelihoods of the bigrams in numba, and their products with both tables: two passes over the rows.

The first weighs each row and adds it to the line of its context, while the line of its word is at hand; the second adds
the weighted rows to the lines of their words.

A thread that adds to a table has a range of its lines to itself. It looks at every row, in their order, and takes
those of its range: nothing is added twice over, the rows need not be sorted, and each line is the same sum, to the bit,
however many threads there are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from latentzoo.inference.kernels.bigram_numpy import Sums
from latentzoo.inference.kernels.numba_loops import FUSED, REORDERED, compiled, inlined
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


def sums(
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    count: Float[np.ndarray, "rows"],
    by_context: Float[np.ndarray, "contexts classes"],
    by_word: Float[np.ndarray, "words classes"],
    least: float,
) -> Sums:
    """Return what `Sums` has; through every core."""
    likelihood, weight = np.empty(len(word)), np.empty(len(word))
    contexts = np.zeros_like(by_context)

    def take_ranges(todo: Iterator[tuple[int, int]]) -> None:
        for low, high in todo:
            _weigh(context, word, count, by_context, by_word, least, likelihood, weight, contexts, low, high)
            contexts[low:high] *= by_context[low:high]

    share(_ranges(context, len(by_context)), take_ranges)
    return Sums(likelihood, weight, contexts, _table(word, context, weight, by_word, by_context))


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


@inlined
def _rows_within(line: Any, start: Any, low: Any, high: Any, taken: Any) -> Any:
    """Write down the rows of a block whose lines are from low to high; return how many they are."""
    found = 0
    for row in range(start, min(start + _BLOCK, len(line))):  # without a branch, which none could foresee
        taken[found] = row
        found += (low <= line[row]) & (line[row] < high)
    return found


@compiled(REORDERED)
def _products(context: Any, word: Any, by_context: Any, by_word: Any, out: Any) -> None:
    """Write the product of two lines for each row."""
    for row in range(len(word)):
        one, other = by_context[context[row]], by_word[word[row]]
        total = 0.0
        for z in range(one.shape[0]):
            total += one[z] * other[z]
        out[row] = total


@compiled(REORDERED)
def _weigh(
    context: Any,
    word: Any,
    count: Any,
    by_context: Any,
    by_word: Any,
    least: Any,
    likelihood: Any,
    weight: Any,
    sums: Any,
    low: Any,
    high: Any,
) -> None:
    """Write likelihood and weight of the rows of the contexts from low to high, and add weight * by_word[word]."""
    taken = np.empty(_BLOCK, np.int64)
    for start in range(0, len(word), _BLOCK):
        found = _rows_within(context, start, low, high, taken)
        for row in taken[:found]:
            one, other, total = by_context[context[row]], by_word[word[row]], sums[context[row]]
            product = 0.0
            for z in range(one.shape[0]):
                product += one[z] * other[z]
            likelihood[row] = product
            part = count[row] / product if product >= least else 0.0
            weight[row] = part
            for z in range(total.shape[0]):
                total[z] += part * other[z]


@compiled(FUSED)
def _add(line: Any, other: Any, weight: Any, factor: Any, sums: Any, low: Any, high: Any) -> None:
    """Add weight * factor[other] to the lines from low to high, row by row."""
    taken = np.empty(_BLOCK, np.int64)
    for start in range(0, len(line), _BLOCK):
        found = _rows_within(line, start, low, high, taken)
        for row in taken[:found]:
            total, terms, part = sums[line[row]], factor[other[row]], weight[row]
            for z in range(total.shape[0]):
                total[z] += part * terms[z]
