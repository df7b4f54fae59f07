"""How an E step runs over data: whole, or in chunks. Sums over rows add up, so the numbers are the same."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from latentzoo.models.language.contract import Params, map_leaves, map_trees, num_rows, take_rows

CHUNK_ROWS = 4096  # of what is known of each row

EStep = Callable[[Params, Any, Any, Any], Any]


def in_chunks(e_step: EStep, chunk_rows: int) -> EStep:
    """Return an E step that visits the rows in chunks, at least one at a time, and adds their statistics."""

    def chunked(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        return add(e_step(params, chunk, prior, spec) for chunk in chunks(data, chunk_rows))

    return chunked


def chunks(data: Any, chunk_rows: int) -> Iterator[Any]:
    """Yield the rows of the data, `chunk_rows` at a time; each chunk is itself data."""
    for start in range(0, num_rows(data) or 0, chunk_rows):
        yield take_rows(data, slice(start, start + chunk_rows))


def by_rows(function: Callable[[Any], np.ndarray], data: Any, chunk_rows: int = CHUNK_ROWS) -> np.ndarray:
    """Return what a function has for each row, visited in chunks: no more of them are in memory at once."""
    return np.concatenate([function(chunk) for chunk in chunks(data, chunk_rows)])


def add(parts: Iterator[Any]) -> Any:
    """Return the sum of the statistics of disjoint sets of rows, field by field."""
    total = next(parts)
    for part in parts:
        total = map_trees(operator.add, total, part)
    return total


def scaled(stats: Any, factor: float) -> Any:
    """Return the statistics of a minibatch scaled up to the whole data."""
    return map_leaves(lambda _, leaf: factor * leaf, stats)
