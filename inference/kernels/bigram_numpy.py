"""The likelihoods of the bigrams in NumPy, and their products with both tables in SciPy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array

from latentzoo.inference.kernels.threads import share

# SciPy's products are cut into blocks of classes, which the threads share. The cuts are the same whatever the cores.
_BLOCK = 16


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


def expected(
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    weight: Float[np.ndarray, "rows"],
    by_context: Float[np.ndarray, "contexts classes"],
    by_word: Float[np.ndarray, "words classes"],
) -> tuple[Float[np.ndarray, "contexts classes"], Float[np.ndarray, "words classes"]]:
    """Return P * (W Q) and Q * (W' P), W being the sparse matrix of the weights; through every core."""
    weights = coo_array((weight, (context, word)), shape=(len(by_context), len(by_word)))
    sums = np.empty_like(by_context), np.empty_like(by_word)
    sides = (weights, by_word, by_context, sums[0]), (weights.T, by_context, by_word, sums[1])
    blocks = [slice(start, start + _BLOCK) for start in range(0, by_context.shape[1], _BLOCK)]

    def take_blocks(jobs: Iterator[Any]) -> None:
        for block, (matrix, factor, mine, out) in jobs:
            np.multiply(mine[:, block], matrix @ factor[:, block], out=out[:, block])

    share([(block, side) for side in sides for block in blocks], take_blocks)
    return sums
