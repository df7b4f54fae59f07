"""Rows of numbers that stay on disk: an array is made of those that are asked for, and never of all of them.

What is said here of blocks holds of arrays in memory, too: nothing makes a second array as large as the first.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.errors import UserError

PART = 0.25  # of the memory that is free, which the floats of a file may fill
BLOCK_NUMBERS = 2**18  # that are looked at together


class Stream:
    """A table of numbers on disk, whose rows are floats when they are taken: `stream[rows]`.

    source: the numbers as they lie, (rows, features), mapped into memory.
    unit: what they are divided by; bytes of images have 255.
    threshold: where it is given, a number above it is 1 and any other 0.

    The rows are a slice, or an array of indices of any shape.
    """

    ndim = 2

    def __init__(self, source: np.ndarray, unit: float = 1.0, threshold: float | None = None):
        self.source, self.unit, self.threshold = source, unit, threshold
        self.shape, self.size, self.dtype = source.shape, source.size, float_type(source.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "*rows features"]:
        return floats(self.source[rows], self.unit, self.threshold)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        size = f"{self.size * self.dtype.itemsize / 2**30:,.1f} GiB"
        cure = "take some rows, data.x[:1000], or fit minibatches of them (batch_rows)"
        raise UserError(f"the rows stay on disk, as they would fill {size} of memory: {cure}")

    def __repr__(self) -> str:
        return f"<Stream: {len(self):,} rows of {self.shape[1]:,} features on disk>"

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest number; NaN where there is one."""
        each = [(block.min(), block.max()) for _, block in blocks(self)]
        low, high = np.array(each, dtype=np.float64).T
        return float(low.min()), float(high.max())

    @cached_property
    def variance(self) -> Float[np.ndarray, "features"]:
        """The variance of each feature over the rows."""
        return _variance(self)


def float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float32 where it holds all numbers of a type, else float64."""
    return np.dtype(np.float32 if np.result_type(dtype, np.float32) == np.float32 else np.float64)


def floats(raw: np.ndarray, unit: float = 1.0, threshold: float | None = None) -> Float[np.ndarray, "*rows features"]:
    """Return numbers as floats, divided by the unit, or as 1 above a threshold and 0 elsewhere; NaN stays NaN."""
    dtype = float_type(raw.dtype)
    x = np.asarray(raw).astype(dtype, copy=False) if unit == 1.0 else np.divide(raw, unit, dtype=dtype)
    return np.asarray(x if threshold is None else np.heaviside(x - dtype.type(threshold), dtype.type(0.0)))


def blocks(x: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of an array or a stream some at a time, each time with the place of the first; a vector whole."""
    if x.ndim < 2 or x.size <= BLOCK_NUMBERS:
        yield 0, x[:] if isinstance(x, Stream) else x
        return
    rows = max(BLOCK_NUMBERS * len(x) // x.size, 1)
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def extremes(x: Any) -> tuple[float, float]:
    """Return the smallest and the largest number of an array or a stream; NaN where there is one."""
    if isinstance(x, Stream):
        return x.extremes
    array = np.asarray(x)
    return float(array.min()), float(array.max())


def variance(x: Any) -> Float[np.ndarray, "features"]:
    """Return the variance of each feature over the rows of an array or a stream, in float64."""
    return x.variance if isinstance(x, Stream) else _variance(np.asarray(x))


def _variance(x: Any) -> Float[np.ndarray, "features"]:
    mean = sum(block.sum(0, dtype=np.float64) for _, block in blocks(x)) / len(x)
    return sum(np.square(block - mean).sum(0) for _, block in blocks(x)) / len(x)


# --- what fits into memory --------------------------------------------------------------------------------------------


def is_large(size: int, dtype: np.dtype[Any]) -> bool:
    """Return whether so many numbers of a type should stay on disk, rather than become floats in memory."""
    return size * float_type(dtype).itemsize > PART * free_memory()


def free_memory() -> int:
    """Return how many bytes of memory are free, of Linux; elsewhere how many there are, and 8 GiB where none says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names)
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**33


def on_disk(parts: Iterable[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], source: Path) -> np.ndarray:
    """Return an array whose bytes come in parts, mapped from a file that goes when the array does.

    Raises
    ------
    UserError: the folder of temporary files has no room for it.
    """
    needed = dtype.itemsize * int(np.prod(shape, dtype=object))
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < needed:
        room = f"{needed / 2**30:,.1f} GiB in {folder}, which has less room"
        raise UserError(f"{source} unpacks to {room}: name another folder in TMPDIR")
    with tempfile.TemporaryFile() as file:  # the mapping keeps it
        for part in parts:
            file.write(part)
        file.flush()
        return np.memmap(file, dtype=dtype, mode="r", shape=shape)
