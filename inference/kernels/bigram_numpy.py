"""The likelihoods of the bigrams in NumPy, and their products with both tables in SciPy."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array

from latentzoo.inference.kernels.threads import share

# A chunk copies the lines of P and Q that it needs. Smaller ones would fit the second-level cache, but then threads
# hand the interpreter's lock to each other so often that they hardly gain on one.
_CHUNK_BYTES = 2**22
# SciPy's products are cut into blocks of classes, which the threads share. The cuts are the same whatever the cores.
_BLOCK = 16


class Sums(NamedTuple):
    """What a module with the loops returns, of tables that are scaled.

    likelihood: of each row. weight: its count over its likelihood, 0 where that is less than can be trusted. contexts,
    words: P * (W Q) and Q * (W' P), W being the sparse matrix of the weights.
    """

    likelihood: Float[np.ndarray, "rows"]
    weight: Float[np.ndarray, "rows"]
    contexts: Float[np.ndarray, "contexts classes"]
    words: Float[np.ndarray, "words classes"]


def chunks(num_rows: int, numbers: int) -> list[slice]:
    """Return the chunks in which rows are visited that need so many numbers at a time."""
    length = max(128, _CHUNK_BYTES // (8 * max(1, numbers)))
    return [slice(start, start + length) for start in range(0, num_rows, length)]


def likelihoods(
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    by_context: Float[np.ndarray, "contexts classes"],
    by_word: Float[np.ndarray, "words classes"],
) -> Float[np.ndarray, "rows"]:
    """Return the product of the lines of both tables that each row names; the rows are a chunk, in one thread."""
    # The indices have been checked before: "raise" would copy once more.
    one, other = by_context.take(context, axis=0, mode="clip"), by_word.take(word, axis=0, mode="clip")
    return np.vecdot(one, other)


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

    def take_chunks(todo: Iterator[slice]) -> None:
        for rows in todo:
            found = likelihoods(context[rows], word[rows], by_context, by_word)
            likelihood[rows] = found
            weight[rows] = np.where(found >= least, count[rows] / np.maximum(found, least), 0.0)

    share(chunks(len(word), 2 * by_context.shape[1]), take_chunks)
    weights = coo_array((weight, (context, word)), shape=(len(by_context), len(by_word)))
    tables = np.empty_like(by_context), np.empty_like(by_word)
    sides = (weights, by_word, by_context, tables[0]), (weights.T, by_context, by_word, tables[1])
    blocks = [slice(start, start + _BLOCK) for start in range(0, by_context.shape[1], _BLOCK)]

    def take_blocks(jobs: Iterator[Any]) -> None:
        for block, (matrix, factor, mine, out) in jobs:
            np.multiply(mine[:, block], matrix @ factor[:, block], out=out[:, block])

    share([(block, side) for side in sides for block in blocks], take_blocks)
    return Sums(likelihood, weight, *tables)
