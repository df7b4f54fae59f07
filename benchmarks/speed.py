"""Closed-form updates against other libraries, each side in fresh processes, and against the limits of this machine.

What is asked is asked of the full size on an undisturbed machine; a quick bench claims only what it measures there.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from latentzoo.benchmarks import speed_gap, speed_picture, speed_report
from latentzoo.benchmarks.fresh import MEMORY, POINT
from latentzoo.benchmarks.paired import TIMES, Comparison, Side, compared
from latentzoo.benchmarks.report import link
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.benchmarks.speed_limits import EXPS, POLYNOMIAL, VECTOR
from latentzoo.inference.pictures import write

SUITE = "seconds an iteration against other libraries, in fresh processes, and against the limits of this machine"
SIDES = "latentzoo.benchmarks.speed_sides"
SMALL = {"size": 100_000, "budget": 0.3}  # of a quick bench
SMALLEST = {"size": 20_000, "budget": 0.1}  # of a quick bench, where a peer takes seconds
NUM_PAIRS = {True: 3, False: 5}  # quick or not, where something is claimed
NUM_OTHER_PAIRS = {True: 1, False: 3}


def _mixture(about: str, columns: int = 2, executor: str = "numba", **options: Any) -> Side:
    needs = "numba" if executor == "numba" else ""
    common = {"size": 1_000_000, "columns": columns, "components": 16, "executor": executor}
    return Side(SIDES, "latentzoo_mixture", f"EM, {about}", needs=needs, options={**common, **options})


def _peer(name: str, library: str, about: str, columns: int = 2, **options: Any) -> Side:
    common = {"size": 1_000_000, "columns": columns, "components": 16}
    return Side(SIDES, f"{name}_mixture", f"{library}'s {about}", library, name, {**common, **options})


def _sklearn(columns: int = 2, precision: str = "", **options: Any) -> Side:
    return _peer("sklearn", "scikit-learn", f"GaussianMixture{precision}", columns, **options)


_SIZE = "N = {size:,}, K = {components}, D = {columns}"
_DIAGONAL = "diagonal, " + _SIZE


def _events(library: str, name: str, about: str, needs: str, **options: Any) -> Side:
    return Side(SIDES, f"{name}_earthquakes", about, library, needs, {"size": 50_000, "components": 16, **options})


COMPARISONS = (
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float64",
        _mixture("numba"),
        _sklearn(),
        times=35.0,
        stretch=50.0,
        at_most={POINT: 0.9, MEMORY: 16.0},
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float32",
        _mixture("numba", dtype="float32"),
        _sklearn(precision=" in float64"),
        times=70.0,
        quick=SMALL,
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float32",
        _mixture("numba", dtype="float32"),
        _sklearn(precision=" in float32", dtype="float32"),
        quick=SMALL,
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float64",
        _mixture("numba", 16),
        _sklearn(columns=16),
        times=15.0,
        quick=SMALL,
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float64, NumPy",
        _mixture("NumPy", executor="numpy"),
        _sklearn(),
        times=10.0,
        quick=SMALL,
    ),
    Comparison(
        "gaussian_mixture",
        f"full covariance, {_SIZE}, float64",
        _mixture("numba", 16, covariance="full"),
        _sklearn(columns=16, covariance="full"),
        times=4.0,
        stretch=8.0,
        quick=SMALL,
    ),
    *(
        Comparison(
            "gaussian_mixture",
            f"{_DIAGONAL}, float64, JAX on two devices",
            _mixture("JAX on two simulated devices", columns, "jax", devices=2),
            _mixture("JAX on one device", columns, "jax")._replace(library="latentzoo on one device"),
            times=times,
            quick=SMALL,
        )
        for columns, times in ((2, 1.15), (16, 1.4))
    ),
    Comparison(
        "earthquakes",
        "CAVI: E step, bound and M step, N = {size:,}, K = {components}, float64",
        _events("latentzoo", "latentzoo", "CAVI, numba", "numba"),
        _events("BayesPy", "bayespy", "BayesPy's VB on the same model, priors and start", "bayespy"),
        times=50.0,
        quick=SMALLEST,
    ),
    Comparison(
        "aggregate_markov",
        "E step, {size:,} distinct bigrams, V = 20,000, m = 32, float64",
        Side(SIDES, "latentzoo_bigrams", "numba", needs="numba", options={"size": 1_000_000}),
        Side(
            SIDES,
            "scipy_bigrams",
            "NumPy's (P[rows] * Q[cols]).sum(1) in chunks, then SciPy's csr_array @ dense",
            "SciPy",
            options={"size": 1_000_000},
        ),
        times=2.5,
        quick=SMALL,
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float64",
        _mixture("numba", size=100_000),
        _peer("pomegranate", "pomegranate", "GeneralMixtureModel", size=100_000),
        quick=SMALLEST,
    ),
    Comparison(
        "gaussian_mixture",
        f"{_DIAGONAL}, float64",
        _mixture("numba", size=100_000),
        _peer("hmmlearn", "hmmlearn", "GMMHMM of one state", size=100_000),
        quick=SMALLEST,
    ),
)
LIMITS = Side(SIDES, "limits", "the limits of this machine")
PICTURE = Path("speed") / "speed.png"
GAP = f"{speed_gap.ENTRY}, time to a gap"


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for the limits of the machine, for each comparison and for the gap, and one that sums them up."""
    works = {"limits": partial(_limits, context)}
    works |= {one.name(context.quick): partial(_compared, one, context) for one in COMPARISONS}
    works[GAP] = partial(speed_gap.rows, context)
    for name, work in works.items():
        yield Unit(name, work)
    yield Unit("summary", partial(_summed_up, context), reads=tuple(works))


def _compared(one: Comparison, context: Context) -> Iterator[Row]:
    asked = one.times is not None and not (context.quick and one.quick)
    num_pairs = (NUM_PAIRS if asked else NUM_OTHER_PAIRS)[context.quick]
    return compared("speed", one, quick=context.quick, seed=context.seed, num_pairs=num_pairs)


def _limits(context: Context) -> Iterator[Row]:
    """Yield what this machine can do at the most."""
    for quantity, value in LIMITS.run(context.seed).items():
        yield Row("speed", quantity, entry=speed_report.MACHINE, value=value)


def _summed_up(context: Context) -> Iterator[Row]:
    """Yield the share of the exponentials that the machine can do which the mixture kernel does; draw the ratios."""
    found = [row for row in context.rows() if row.suite == "speed"]
    yield from shares(found)
    if any(row.quantity == TIMES for row in found):
        write(speed_picture.draw(found), context.folder / PICTURE)


def shares(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield, for each precision of the kernel on the table, its exponentials a second over those of a limit."""
    limits = {row.quantity: row.value for row in rows if row.entry == speed_report.MACHINE}
    ours = [row for row in rows if row.quantity == POINT and row.library == "latentzoo" and row.value]
    seen = set()
    for row in ours:
        dtype = next((name for name in ("float32", "float64") if row.variant.endswith(name)), None)
        if dtype is None or row.variant in seen:
            continue
        seen.add(row.variant)
        for name in (POLYNOMIAL, VECTOR):
            limit = limits.get(EXPS.format(name, dtype))
            if limit:
                value = 1.0 / (row.value or 1.0) / limit
                quantity = f"{speed_report.SHARE} {name}"
                yield Row("speed", quantity, entry=row.entry, variant=row.variant, library="latentzoo", value=value)


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the table of what is asked, the limits and the picture."""
    picture = (
        f"\n\n!{link('how many times as fast, and what is asked', PICTURE)}" if (folder / PICTURE).exists() else ""
    )
    return speed_report.section(rows) + picture
