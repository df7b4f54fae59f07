"""What this machine can do at the most, by small programs that do nothing else: what a kernel's share is a share of.

All cores take part, as they do in the kernels.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from latentzoo.inference.kernels.threads import cores, share

EXPS = "exps a second, {}, {}, 1e9"  # by which, precision
POLYNOMIAL, VECTOR = "the polynomial of the kernels", "NumPy's"
BANDWIDTH, PRODUCTS = "memory read, GiB a second", "matrix product, {}, GFLOP a second"
PRECISIONS = ("float64", "float32")
BLOCK = 4096  # numbers, which stay in the first-level cache
REPEATS = 5  # the fastest counts: a limit is what nothing disturbed


def limits(seed: int, *, megabytes: int = 512, order: int = 1024, rounds: int = 2000) -> dict[str, float]:
    """Return the limits of this machine. megabytes: that are read; order: of the matrices; rounds: of the exps."""
    rng = np.random.default_rng(seed)
    found = {}
    for dtype in PRECISIONS:
        numbers = -rng.random((cores(), BLOCK)).astype(dtype) * np.asarray(10.0, dtype)
        for name, exponential in _exponentials().items():
            found[EXPS.format(name, dtype)] = 1e-9 * _most(_exps(exponential, numbers, rounds))
    for dtype in PRECISIONS:
        found[PRODUCTS.format(dtype)] = 1e-9 * _most(partial(_product, rng.random((2, order, order)).astype(dtype)))
    found[BANDWIDTH] = _most(_reads(np.ones(megabytes * 2**20 // 8))) / 2**30
    return found


Exponential = Callable[[Any, Any, int], None]


def _exponentials() -> dict[str, Exponential]:
    """Return what writes the exponentials of a block into another, so many times; the polynomial needs numba."""
    found: dict[str, Exponential] = {VECTOR: _by_numpy}
    if find_spec("numba") is not None:
        from latentzoo.benchmarks.speed_limits_numba import exponentials

        found[POLYNOMIAL] = exponentials
    return found


def _by_numpy(numbers: Any, out: Any, rounds: int) -> None:
    for _ in range(rounds):
        np.exp(numbers, out=out)


def _exps(exponential: Exponential, numbers: np.ndarray, rounds: int) -> Callable[[], float]:
    """Return what does them on every core, and says how many. numbers: a block for each core."""
    out = np.empty_like(numbers)

    def work(todo: Iterator[int]) -> None:
        for i in todo:
            exponential(numbers[i], out[i], rounds)

    def run() -> float:
        share(range(len(numbers)), work)
        return float(rounds * numbers.size)

    return run


def _product(pair: np.ndarray) -> float:
    np.matmul(pair[0], pair[1])
    return 2.0 * float(pair.shape[1]) ** 3


def _reads(array: np.ndarray) -> Callable[[], float]:
    parts = np.array_split(array, 4 * cores())

    def work(todo: Iterator[np.ndarray]) -> None:
        for part in todo:
            part.sum()

    def run() -> float:
        share(parts, work)
        return float(array.nbytes)

    return run


def _most(run: Callable[[], float]) -> float:
    """Return the most that a run does in a second."""
    run()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = run()
        found.append(done / (time.perf_counter() - start))
    return max(found)
