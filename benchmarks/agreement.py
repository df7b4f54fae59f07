"""Every hand-derived bound and gradient against both libraries' automatic ones, by `lz.verify`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from latentzoo.benchmarks.report import mark, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference.checks import Check
from latentzoo.inference.registry import get, names
from latentzoo.inference.verify import verify
from latentzoo.models.language import contract
from latentzoo.models.language.ppl import LIBRARIES, Library

SUITE = "hand-derived bounds and gradients against the automatic ones of Pyro and NumPyro"
NUM_POINTS = {True: 3, False: 10}  # quick or not: random parameter points for each variant


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each entry, choice of its Spec and library."""
    for name in names():
        for spec in contract.variants(get(name).spec):
            chosen = ", ".join(f"{field}={value}" for field, value in vars(spec).items()) or "no options"
            for library in LIBRARIES:
                yield Unit(f"{name} [{chosen}] {library}", partial(_rows, name, vars(spec), library, context))


def _rows(name: str, spec: dict[str, Any], library: Library, context: Context) -> Iterator[Row]:
    proof = verify(
        name, library=library, num_points=NUM_POINTS[context.quick], seed=context.seed, progress=False, **spec
    )
    groups: dict[tuple[str, str], list[Check]] = defaultdict(list)
    for check in proof.rows:
        groups[check.variant, check.quantity].append(check)
    yield from map(_row, groups.values())


def _row(checks: list[Check]) -> Row:
    """Return the worst of the points, measured by what it is allowed."""
    worst = max(checks, key=lambda check: (not check.ok, check.error / check.tolerance))
    return Row(
        suite="agreement",
        entry=worst.entry,
        variant=worst.variant,
        library=worst.library,
        quantity=worst.quantity,
        value=worst.hand,
        unit="nats",
        reference=worst.automatic,
        error=worst.error,
        tolerance=worst.tolerance,
        ok=all(check.ok for check in checks),
        note="; ".join(dict.fromkeys(check.way for check in checks)),
    )


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return a line for each entry, variant and library, and what each way of comparing is."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entry, row.variant, row.library].append(row)
    ways = list(dict.fromkeys(row.note for row in rows))
    lines = [
        [
            *key,
            _worst([row for row in group if row.quantity == "elbo"]),
            _worst([row for row in group if row.quantity != "elbo"]),
            ", ".join(str(number) for number in sorted({ways.index(row.note) + 1 for row in group})),
            mark(all(row.ok for row in group)),
        ]
        for key, group in groups.items()
    ]
    head = ["model", "variant", "library", "ELBO off by", "gradient off by", "way", "holds"]
    numbered = "\n".join(f"{number}. {way}" for number, way in enumerate(ways, 1))
    return (
        "Each bound and gradient was derived by hand, and computed again by the library from the generative program"
        " itself, in float64, at random parameters far from any optimum. An error is the largest absolute difference in"
        " nats, at the worst of the points; in brackets, what it may be: 1e-10 times the size of the terms that are"
        " summed. Errors near 1e-14 are rounding; a wrong factor or a forgotten constant would show as 1e-3 or"
        " more.\n\n"
        f"{table(head, lines)}\n\nWays of computing the automatic numbers:\n\n{numbered}\n"
    )


def _worst(rows: list[Row]) -> str:
    """Return the error that comes nearest to what is allowed, and what is allowed."""
    judged = [row for row in rows if row.error is not None and row.tolerance]
    if len(judged) < len(rows):
        return "not finite"
    if not judged:
        return "–"
    worst = max(judged, key=lambda row: (row.error or 0.0) / (row.tolerance or 1.0))
    return f"{worst.error:.1e} ({worst.tolerance:.0e})"
