"""What runs in a process of its own, with nothing else in its memory: how it is timed, and how it answers."""

import contextlib
import ctypes
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latentzoo.models.language.errors import Note

SECONDS = "seconds an iteration"
MEMORY = "peak memory beyond the data, MiB"
POINT = "ns a point and component"
BUDGET = 2.0  # seconds of iterations that are timed, about
MOST_ITERATIONS = 60
WARM_UP = 2_000  # rows, of a run that imports and compiles

Figures = Mapping[str, float]
Run = Callable[[int], object]  # takes so many iterations


def answer(sides: Mapping[str, Callable[..., Any]]) -> None:
    """Run the side that the command line names, with its seed and its options in JSON; print its figures in JSON.

    What a library prints meanwhile goes to stderr.
    """
    name, seed, *options = sys.argv[1:]
    warnings.simplefilter("ignore")  # a peer's own are no matter of ours
    with contextlib.redirect_stdout(sys.stderr):
        figures = sides[name](int(seed), **json.loads(options[0] if options else "{}"))
    sys.stdout.write(json.dumps(figures))


def measured(
    make: Callable[..., Run], seed: int, *, size: int, budget: float = BUDGET, **options: Any
) -> dict[str, float]:
    """Return the seconds of an iteration, and the peak of the memory while it runs, beyond what was there before.

    The side runs on few rows first, so that what it imports and compiles for good is no part of either.

    Parameters
    ----------
    make: returns what takes so many iterations, given the seed, the size and the options, once its data are in place.
    size: the number of rows. budget: the seconds of iterations that are timed, about.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # few iterations converge
        make(seed, size=min(size, WARM_UP), **options)(1)
        run = make(seed, size=size, **options)
        with Peak() as peak:
            run(1)
            seconds = seconds_per_iteration(run, budget)
    figures = {SECONDS: seconds}
    if peak.mib is not None:
        figures[MEMORY] = peak.mib
    if "components" in options:
        figures[POINT] = 1e9 * seconds / (size * options["components"])
    return figures


def seconds_per_iteration(run: Run, budget: float) -> float:
    """Return the seconds of many iterations less those of one, which leaves out what is done once, for each of them.

    budget: seconds to spend, about; two iterations at least.
    """
    first, third = _timed(run, 1), _timed(run, 3)
    each = max((third - first) / 2.0, 1e-9)
    more = min(int(budget / each), MOST_ITERATIONS)
    if more <= 2:
        return each
    total = _timed(run, 1 + more)
    return max(total - _timed(run, 1), 0.0) / more


def _timed(run: Run, iterations: int) -> float:
    start = time.perf_counter()
    run(iterations)
    return time.perf_counter() - start


class Peak:
    """How far the resident memory of this process rises inside `with peak:`, as `mib`.

    Linux tells it exactly, since its mark of the highest can be set back. Elsewhere it is what the highest ever rose
    by, which is too little where something before the block took more; None where neither is told.
    """

    def __init__(self) -> None:
        self.mib: float | None = None

    def __enter__(self) -> "Peak":
        gc.collect()
        _give_back()
        # 5 sets the mark back: proc(5), clear_refs.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _highest()
        return self

    def __exit__(self, *_: object) -> None:
        after = _highest()
        if self._before is not None and after is not None:
            self.mib = max(after - self._before, 0.0)


def _give_back() -> None:
    """Return freed memory to the system where the C library can: what stays could hide a peak."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _highest() -> float | None:
    """Return the most memory that this process ever had at once, in MiB."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        if found:
            return int(found[0]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    # macOS counts bytes, others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
