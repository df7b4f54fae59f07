"""The rows that each step of a stochastic method sees, fetched on the host: the data may be larger than memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from latentzoo.models.language import contract

MOST_BYTES = 2**26  # of the rows of several steps that are handed over at once


class Minibatches:
    """Minibatches of some data: each epoch visits the rows in a new order, but for a remainder.

    They follow from the seed and the number of the step alone, so that a run can be taken up anywhere.
    """

    def __init__(
        self,
        data: Any,
        batch_rows: int,
        *,
        seed: int,
        dtype: str = "float64",
        prepare: Callable[[Any, np.random.Generator], Any] = lambda data, rng: data,
    ):
        """Take the data, the rows of a minibatch, and what becomes of its rows, as `prepare(rows, rng)`."""
        self._data, self._batch, self._seed, self._dtype, self._prepare = data, batch_rows, seed, dtype, prepare
        self.total = contract.num_rows(data) or 0
        self._epoch, self._order = -1, np.arange(0)

    def most_steps(self, wanted: int) -> int:
        """Return how many steps, up to those wanted, have rows that can be handed over at once."""
        size = contract.num_numbers(contract.take_rows(self._data, slice(0, 1))) * np.dtype(self._dtype).itemsize
        return int(np.clip(MOST_BYTES // (size * self._batch), 1, wanted))

    def rows(self, first: int, number: int) -> Int[np.ndarray, "steps batch_rows"]:
        """Return which rows some steps see, from the first on."""
        return np.stack([self._at(step) for step in range(first, first + number)])

    def take(self, first: int, number: int) -> Any:
        """Return the rows themselves, as data with an axis for the steps before that of the rows."""
        found = contract.take_rows(self._data, self.rows(first, number))
        prepared = self._prepare(found, np.random.default_rng([self._seed, 1, first]))
        return in_precision(prepared, self._dtype)

    def example(self) -> Any:
        """Return a row, for what must know how the data look."""
        return in_precision(contract.take_rows(self._data, slice(0, 1)), self._dtype)

    def _at(self, step: int) -> Int[np.ndarray, "batch_rows"]:
        epoch, place = divmod(step, self.total // self._batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, 0, epoch]).permutation(self.total)
        return self._order[place * self._batch : (place + 1) * self._batch]


def in_precision(tree: Any, dtype: str) -> Any:
    """Return a tree as NumPy arrays whose floats have this precision; whole numbers stay as they are."""

    def cast(_: str, leaf: Any) -> np.ndarray:
        array = contract.as_numpy(leaf)
        return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

    return contract.map_leaves(cast, tree)
