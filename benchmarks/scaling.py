"""How the cost of an iteration grows: with rows, components and columns, and with bigrams; and that memory does not.

Each curve is measured in a process of its own, its sizes in turn, and again, so that a machine that slows down does so
for all of them. The shortest times, which others on the machine have disturbed least, go into a power law.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks import scaling_picture
from latentzoo.benchmarks.fresh import MEMORY, SECONDS
from latentzoo.benchmarks.paired import MISSING, OURS, Others, Side, hint
from latentzoo.benchmarks.report import link, mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference.pictures import write

SUITE = "how seconds and memory grow with rows, components, columns and bigrams: fitted exponents"
SIDES = "latentzoo.benchmarks.scaling_sides"
EXPONENT, GROWTH = "exponent", "growth of the peak memory, MiB"
TOLERANCE = 0.1  # of an exponent that must be one
MOST_GROWTH = 8.0  # MiB, from the fewest to the most rows
LEVEL = 0.95  # of the intervals
PICTURE = Path("scaling") / "scaling.png"
REPEATS = {True: 2, False: 10}  # quick or not
BUDGET = {True: 0.1, False: 0.25}  # seconds of iterations, for each point and repeat


class Curve(NamedTuple):
    """What is varied, and what stays.

    symbol: of what is varied, by the option `along`. values: quick or not. claim: the exponent that is asked for.
    flat: whether the memory must not grow.
    """

    entry: str
    variant: str
    symbol: str
    along: str
    values: Mapping[bool, Sequence[int]]
    side: Side
    claim: float | None = None
    flat: bool = False

    @property
    def name(self) -> str:
        """The name among those of the suite."""
        return f"{self.entry}, {self.variant}, by {self.symbol}"


def _mixture(executor: str = "numba", **options: Any) -> Side:
    needs = "numba" if executor == "numba" else ""
    common = {"size": 1_000_000, "columns": 2, "components": 16, "executor": executor}
    return Side(SIDES, "mixture", f"EM, {executor}", needs=needs, options={**common, **options})


_ROWS = {
    True: (10_000, 30_000, 100_000, 300_000, 1_000_000),
    False: (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
}
_COMPONENTS = {True: (8, 16, 32, 64), False: (8, 16, 24, 32, 48, 64)}
_COLUMNS = {True: (2, 4, 8, 16, 32), False: (2, 4, 8, 16, 24, 32)}
_BIGRAMS = {True: (30_000, 100_000, 300_000), False: (100_000, 300_000, 1_000_000, 3_000_000)}
_SMALL = 100_000  # rows, in a quick bench, where something else varies
CURVES = (
    Curve("gaussian_mixture", "numba", "N", "size", _ROWS, _mixture(), claim=1.0, flat=True),
    Curve("gaussian_mixture", "numba", "K", "components", _COMPONENTS, _mixture(), claim=1.0),
    Curve("gaussian_mixture", "numba", "D", "columns", _COLUMNS, _mixture()),
    Curve("gaussian_mixture", "NumPy", "N", "size", _ROWS, _mixture("numpy"), claim=1.0, flat=True),
    Curve("gaussian_mixture", "JAX on one device", "N", "size", _ROWS, _mixture("jax"), claim=1.0),
    Curve("gaussian_mixture", "JAX on two devices", "N", "size", _ROWS, _mixture("jax", devices=2), claim=1.0),
    Curve(
        "aggregate_markov",
        "numba",
        "nnz",
        "size",
        _BIGRAMS,
        Side(SIDES, "bigrams", "E step, numba", needs="numba", options={"executor": "numba"}),
    ),
)


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each curve, and one that draws them."""
    for one in CURVES:
        yield Unit(one.name, partial(measured, one, context))
    yield Unit("picture", partial(_drawn, context), reads=tuple(one.name for one in CURVES))


def measured(one: Curve, context: Context) -> Iterator[Row]:
    """Yield the seconds and the memory at each value, the exponent with its interval, and how far memory grew."""
    row = partial(Row, "scaling", entry=one.entry, variant=one.name, library=OURS)
    if one.side.is_missing:
        yield row(MISSING, note=f"{one.side.needs} is not installed: pip install {hint(one.side)}")
        return
    values = one.values[context.quick]
    asked = {"along": one.along, "values": values, "repeats": REPEATS[context.quick], "budget": BUDGET[context.quick]}
    if context.quick and one.along != "size":
        asked["size"] = _SMALL
    with Others() as others:
        found = one.side._replace(options={**one.side.options, **asked}).run(context.seed, max_seconds=600.0)
    busy = "" if others.is_quiet else f"the machine was busy: other processes used {others.cores:.1f} cores meanwhile"
    points = [
        (value, {name: found[f"{name} at {value}"] for name in (SECONDS, MEMORY) if f"{name} at {value}" in found})
        for value in values
    ]
    for value, figures in points:
        for name, figure in figures.items():
            yield row(name, data=f"{one.symbol} = {value}", value=figure)
    judged = not (context.quick or busy)
    yield _exponent(row, one, [(value, figures[SECONDS]) for value, figures in points], busy, judged)
    memory = [figures[MEMORY] for _, figures in points if MEMORY in figures]
    if one.flat and memory:
        growth = max(memory) - memory[0]
        note = f"the largest peak less that of the fewest rows, which is {number(memory[0])} MiB; beyond the data"
        ok = growth <= MOST_GROWTH
        yield row(GROWTH, value=growth, reference=0.0, error=growth, tolerance=MOST_GROWTH, ok=ok, note=note)


def _exponent(row: "partial[Row]", one: Curve, points: Sequence[tuple[float, float]], busy: str, judged: bool) -> Row:
    """Return the fitted exponent. Of a quick bench's few rows, and of a busy machine, it is told and not judged."""
    sizes, costs = zip(*points, strict=True)
    (slope, half), (fixed, each, off) = exponent(sizes, costs), line(sizes, costs)
    note = f"{slope:.3f} ± {half:.3f}, {LEVEL:.0%}, from {one.symbol} = {sizes[0]:,} to {sizes[-1]:,}"
    note += f"; {_duration(fixed)} + {_duration(each)} x {one.symbol} is off by {off:.0%} at most"
    note += f"; {busy}" if busy else ""
    if one.claim is None:
        return row(EXPONENT, value=slope, note=note)
    error = abs(slope - one.claim)
    ok = error <= TOLERANCE if judged else None
    return row(EXPONENT, value=slope, reference=one.claim, error=error, tolerance=TOLERANCE, ok=ok, note=note)


def exponent(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return the exponent of a power law by least squares on logarithms, and half its interval, by Student's t.

    The interval tells of noise and of costs that are no power law alike. Two points have an exponent and no interval,
    which is then infinite.
    """
    from scipy.stats import linregress, t

    found = linregress(np.log(values), np.log(costs))
    freedom = len(values) - 2
    half = float(t.ppf(0.5 + LEVEL / 2.0, freedom) * found.stderr) if freedom > 0 else np.inf
    return float(found.slope), half


def line(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float, float]:
    """Return the straight line whose relative errors are least in squares: its cost at zero, slope and worst error.

    What is done once, whatever the size, makes an exponent less than one, and is told apart by it.
    """
    sizes, seconds = np.asarray(values), np.asarray(costs)
    slope, fixed = np.polyfit(sizes, seconds, 1, w=1.0 / seconds)
    errors = (fixed + slope * sizes) / seconds - 1.0
    return float(fixed), float(slope), float(np.abs(errors).max())


def _duration(seconds: float) -> str:
    from matplotlib.ticker import EngFormatter

    return EngFormatter("s", places=2)(seconds)


def _drawn(context: Context) -> Iterator[Row]:
    """Draw the curves; it yields no rows."""
    found = [row for row in context.rows() if row.suite == "scaling"]
    if any(row.quantity == SECONDS for row in found):
        write(scaling_picture.draw(found), context.folder / PICTURE)
    yield from ()


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the table of the exponents, that of the memory, and the picture."""
    intro = (
        "Seconds an iteration are the fewest of the repeats, memory the most; each curve is measured in a process of"
        " its own, its sizes in turn. An exponent is fitted by least squares on logarithms, and beside it a line: what"
        " is done once, and what grows, with its largest relative error. What is held fixed is N = 1,000,000 (quick:"
        f" {_SMALL:,}), K = 16, D = 2; of bigrams V = 20,000 and 32 classes, whose tables cost the same however few"
        " bigrams there are. Memory is the peak beyond the data."
    )
    exponents = [
        [row.variant, number(row.value), number(row.reference), mark(row.ok), row.note]
        for row in rows
        if row.quantity == EXPONENT
    ]
    memory = [[row.variant, number(row.value), mark(row.ok), row.note] for row in rows if row.quantity == GROWTH]
    missing = [[row.variant, row.note] for row in rows if row.quantity == MISSING]
    parts = [intro]
    if exponents:
        parts.append(table(["curve", "exponent", "asked for", "holds", "note"], exponents))
    if memory:
        parts.append(table(["curve", GROWTH, f"at most {number(MOST_GROWTH)}", "note"], memory))
    if missing:
        parts.append(table(["not measured", "why"], missing))
    if (folder / PICTURE).exists():
        parts.append(f"!{link('cost against size', PICTURE)}")
    return "\n\n".join(parts)
