"""THE way to compare whole processes: each side in a fresh one, in turn, by the ratios of pairs.

A pair that runs one after the other meets the same machine, so that its ratio says more than two times do. A pair
counts only where other processes left the machine alone meanwhile. A suite is a table of comparisons, `compared` makes
rows of each, and a side is a module that answers as `fresh.answer` has it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from latentzoo.benchmarks.fresh import SECONDS, Figures
from latentzoo.benchmarks.report import number
from latentzoo.benchmarks.results import Row
from latentzoo.models.language.errors import UserError

OURS = "latentzoo"
TIMES, LEAST, MOST = "times as fast", "times as fast, the least pair", "times as fast, the most"
MISSING = "not installed"
MOST_OTHERS = 0.1  # of a core, that other processes may use while a pair counts
MAX_SECONDS = 300.0  # of a process


class Side(NamedTuple):
    """What runs in a process of its own: `python -m module name SEED OPTIONS`, which prints its figures in JSON.

    about: what it is, in words. library: whose it is. needs: what must be importable beside latentzoo.
    """

    module: str
    name: str
    about: str
    library: str = OURS
    needs: str = ""
    options: Mapping[str, Any] = {}

    @property
    def is_missing(self) -> bool:
        """Whether what it needs is not installed."""
        return bool(self.needs) and find_spec(self.needs) is None

    def run(self, seed: int, max_seconds: float = MAX_SECONDS) -> Figures:
        """Run it once.

        Raises
        ------
        UserError: it took longer than that.
        RuntimeError: it failed.
        """
        command = [sys.executable, "-m", self.module, self.name, str(seed), json.dumps(dict(self.options))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max_seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{self.about} was stopped after {max_seconds:g} s") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"the process of {self.name} ended with status {done.returncode}: {lines[-1]}")
        return json.loads(done.stdout)


class Comparison(NamedTuple):
    """What is compared, and what is asked.

    ours, peer: who runs. times: how many times as fast ours must be at least; stretch: what would be fine.
    at_most: what figures of ours may be. by: the figure whose ratios count.
    variant: in words, with the options of ours in braces. quick: options of both sides in a quick bench; where it has
    some, nothing is claimed in it.
    """

    entry: str
    variant: str
    ours: Side
    peer: Side
    times: float | None = None
    stretch: float | None = None
    at_most: Mapping[str, float] = {}
    by: str = SECONDS
    quick: Mapping[str, Any] = {}

    def name(self, quick: bool) -> str:
        """Return the name among those of a suite."""
        return f"{self.entry}, {self.variant_in(quick)}, {self.against}"

    def variant_in(self, quick: bool) -> str:
        """Return the variant with the options that it is run with."""
        return self.variant.format(**self.sides(quick)[0].options)

    @property
    def against(self) -> str:
        """The peer in words, which tell the comparisons of a variant apart."""
        return f"against {self.peer.about}"

    def sides(self, quick: bool) -> tuple[Side, Side]:
        """Return both sides as they run."""
        more = self.quick if quick else {}
        ours, peer = (side._replace(options={**side.options, **more}) for side in (self.ours, self.peer))
        return ours, peer


# --- other processes --------------------------------------------------------------------------------------------------


class Others:
    """How much of a core processes other than this one, and those it waited for, used inside `with`, as `cores`.

    Time that the host of a virtual machine took is among it. None where the system does not tell.
    """

    def __init__(self) -> None:
        self.cores: float | None = None

    def __enter__(self) -> "Others":
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        (clock, busy, own), (then, earlier, ours) = self._read(), self._before
        if busy is not None and earlier is not None:
            self.cores = max((busy - earlier) - (own - ours), 0.0) / max(clock - then, 1e-9)

    @property
    def is_quiet(self) -> bool:
        """Whether the others left the machine alone, or nobody can tell."""
        return self.cores is None or self.cores < MOST_OTHERS

    @staticmethod
    def _read() -> tuple[float, float | None, float]:
        """Return a clock, the seconds that all cores have been busy, and those of this process and its children."""
        spent = os.times()
        return time.perf_counter(), _busy(), spent.user + spent.system + spent.children_user + spent.children_system


def _busy() -> float | None:
    """Return the seconds that all cores together have been busy: user, nice, system, irq, softirq and steal."""
    try:
        ticks = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except (OSError, IndexError):
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(each) for each in ticks)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


# --- pairs ------------------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """The figures of both sides, pair by pair. quiet: whether enough of them were undisturbed; note: in words."""

    ours: Sequence[Figures]
    peer: Sequence[Figures]
    quiet: bool
    note: str

    def ratios(self, by: str = SECONDS) -> list[float]:
        """Return how many times as much the peer took, in order."""
        pairs = zip(self.ours, self.peer, strict=True)
        return sorted(other[by] / max(own[by], 1e-12) for own, other in pairs)


def run_pairs(ours: Side, peer: Side, seed: int, num_pairs: int, max_seconds: float = MAX_SECONDS) -> Pairs:
    """Run both sides in turn, A B A B, until so many pairs were undisturbed, or half as many again were disturbed.

    Where too few were undisturbed, all count, and the note says so.
    """
    quiet: list[tuple[Figures, Figures]] = []
    disturbed: list[tuple[Figures, Figures]] = []
    loads: list[float | None] = []
    for _ in range(num_pairs + -(-num_pairs // 2)):
        with Others() as others:
            pair = ours.run(seed, max_seconds), peer.run(seed, max_seconds)
        (quiet if others.is_quiet else disturbed).append(pair)
        loads.append(others.cores)
        if len(quiet) == num_pairs:
            break
    enough = len(quiet) == num_pairs
    kept = quiet if enough else quiet + disturbed
    note = _told(len(kept), len(quiet), loads)
    return Pairs([pair[0] for pair in kept], [pair[1] for pair in kept], enough, note)


def _told(kept: int, quiet: int, loads: Sequence[float | None]) -> str:
    known = [load for load in loads if load is not None]
    pairs = f"{kept} pair{'' if kept == 1 else 's'}"
    if not known:
        return f"median of {pairs}; what other processes did meanwhile is not known"
    if kept > quiet:
        words = f"the machine was busy: other processes used {statistics.median(known):.1f} cores meanwhile (median)"
        return f"median of {pairs}, {quiet} of them undisturbed; {words}; nothing is claimed"
    dropped = len(loads) - kept
    return f"median of {pairs}, undisturbed" + (f", after {dropped} disturbed" if dropped else "")


def compared(suite: str, one: Comparison, *, quick: bool, seed: int, num_pairs: int) -> Iterator[Row]:
    """Yield the figures of both sides, medians, and the median of their ratios with its range, against what is asked.

    A library that is not installed is a row, and no failure. Nothing is claimed in a quick bench of smaller size, nor
    by pairs that were disturbed.
    """
    row = partial(Row, suite, entry=one.entry, variant=one.variant_in(quick), data=one.against)
    ours, peer = one.sides(quick)
    for side in (ours, peer):
        if side.is_missing:
            yield row(MISSING, library=side.library, note=f"{side.needs} is not installed: pip install {hint(side)}")
            return
    pairs = run_pairs(ours, peer, seed, num_pairs)
    smaller = quick and bool(one.quick)
    claims = pairs.quiet and not smaller
    for side, figures in ((ours, pairs.ours), (peer, pairs.peer)):
        for quantity in figures[0]:
            value = statistics.median(each[quantity] for each in figures)
            mine = row(quantity, library=side.library, value=value, note=side.about)
            asked = one.at_most.get(quantity) if side is ours else None
            yield mine if asked is None else _judged(mine, asked, max(value - asked, 0.0), claims)
    ratios = pairs.ratios(one.by)
    ratio = statistics.median(ratios)
    note = f"{pairs.note}, from {number(ratios[0])} to {number(ratios[-1])}"
    note += "" if one.stretch is None else f"; {number(one.stretch)} would be better still"
    note += "; nothing is claimed at this size" if smaller else ""
    mine = row(TIMES, library=peer.library, value=ratio, note=note)
    yield mine if one.times is None else _judged(mine, one.times, max(one.times - ratio, 0.0), claims)
    yield row(LEAST, library=peer.library, value=ratios[0])
    yield row(MOST, library=peer.library, value=ratios[-1])


def _judged(row: Row, asked: float, short: float, claims: bool) -> Row:
    """Return a row with what is asked, by how much it falls short of it, and whether it holds where that is claimed."""
    return row._replace(reference=asked, error=short, ok=short == 0.0 if claims else None)


def hint(side: Side) -> str:
    """Return what to install."""
    return "'latentzoo[fast]'" if side.needs == "numba" else "'latentzoo[bench]'"
