"""The part of the report on a data set that was raced on: its tables and its picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentzoo.benchmarks.race_gaps import COST, COSTS, FASTEST, GAP, GAP_AT, TARGETS
from latentzoo.benchmarks.report import link, number, table
from latentzoo.benchmarks.results import Row

BEST = "best bound"

Found = Mapping[tuple[str, str], Row]  # by variant and quantity


def data_set(entry: str, data: str, rows: Sequence[Row], picture: Path, folder: Path) -> str:
    """Return the Markdown of a data set. picture: its path in the folder of the bench."""
    found = {(row.variant, row.quantity): row for row in rows}
    best = found.get(("", BEST))
    if best is None:
        return f"### {entry}, {data}\n\nIts runs are not summed up yet."
    gaps = [row for row in rows if row.quantity == GAP]
    parts = [
        f"### {entry}, {data}",
        f"Best bound {number(best.value)} nats. {best.note}.",
        table(
            ["contestant", GAP, "over the seeds", "seconds to compile"],
            [[row.variant, _gap(row), row.note, number(row.compile_seconds)] for row in gaps],
        ),
        *(_costs(found, [row.variant for row in gaps], by) for by in COSTS),
        _grid(rows),
    ]
    if (folder / picture).exists():
        parts.append(f"!{link(f'race on {entry}, {data}', picture)}")
    return "\n\n".join(part for part in parts if part)


def _costs(found: Found, names: Sequence[str], by: str) -> str:
    columns = [COST.format(by, target) for target in TARGETS]
    return table(
        ["contestant", *columns], [[name, *(_cost(found[name, column]) for column in columns)] for name in names]
    )


def _cost(row: Row) -> str:
    return f"**{number(row.value)} {row.unit}**" if row.note == FASTEST else row.note


def _grid(rows: Sequence[Row]) -> str:
    """Return the gap of each contestant at each learning rate."""
    found = {
        (row.variant, row.quantity.removeprefix(GAP_AT).strip()): row for row in rows if row.quantity.startswith(GAP_AT)
    }
    names, rates = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    lines = [[name, *(_gap(found.get((name, rate))) for rate in rates)] for name in names]
    return table([GAP_AT, *rates], lines) if lines else ""


def _gap(row: Row | None) -> str:
    if row is None:
        return ""
    return "not finite" if row.value is None else f"{row.value:.1e}"
