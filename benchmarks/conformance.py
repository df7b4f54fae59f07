"""Where Pyro, NumPyro and their peers silently disagree with exact values: cases with programs, and a sweep of losses.

Nothing here is about latentzoo: a wrong verdict is a fault of a library, and no failure of the bench. A verdict that
differs from the recorded one is said to have changed; the test of that case fails, so that it is recorded anew.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from latentzoo.benchmarks.conformance_cases import page, sweep
from latentzoo.benchmarks.conformance_cases.case import PEERS, Case, Outcome, Peer, cases, installed, run
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference.progress import progress
from latentzoo.models.language.files import atomic

SUITE = "where Pyro, NumPyro and their peers disagree with exact values"


def programs() -> list[tuple[type[Case], Peer]]:
    """Return each case with each library that it has a verdict on and that is installed."""
    return [(case, peer) for case in cases() for peer in case.verdicts if installed(peer)]


def command(out: Path | None, say: Callable[[str], None]) -> None:
    """Run everything and print it; write `conformance.md` and `conformance.json` into a folder if one is given."""
    found = programs()
    outcomes: list[Outcome] = []
    cells: list[sweep.Cell] = []
    with progress("conformance", len(found) + len(sweep.SWEPT)) as update:
        for done, (case, peer) in enumerate(found):
            update(done, f"{case.__name__}, {PEERS[peer][0]}")
            outcomes.append(run(case, peer))
        for done, peer in enumerate(sweep.SWEPT, len(found)):
            update(done, f"every loss with every feature, {PEERS[peer][0]}")
            cells.extend(sweep.sweep(peer))
    rows = [*map(outcome_row, outcomes), *map(cell_row, cells)]
    say(page.text(rows))
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    written = {"conformance.md": page.page(rows, outcomes), "conformance.json": page.document(outcomes, cells)}
    for name, content in written.items():
        with atomic(out / name, "w", encoding="utf-8") as file:
            file.write(content)
        say(f"wrote {out / name}")


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each case and library, and one for the sweep of each library."""
    for case, peer in programs():
        yield Unit(f"{case.__name__} {peer}", partial(_case_rows, case, peer))
    for peer in sweep.SWEPT:
        yield Unit(f"sweep {peer}", partial(_sweep_rows, peer))


def _case_rows(case: type[Case], peer: Peer) -> Iterator[Row]:
    yield outcome_row(run(case, peer))


def _sweep_rows(peer: Peer) -> Iterator[Row]:
    yield from map(cell_row, sweep.sweep(peer))


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the summary of the cases and the picture of the sweep."""
    return (
        f"{page.LEGEND}\n\n{page.summary(rows)}\n\n{page.pictures(rows)}\n\n"
        "`latentzoo conformance -o DIR` writes the same with every program."
    )


def outcome_row(outcome: Outcome) -> Row:
    """Return what a program did: the number that is farthest from the exact one, and the verdict. It claims nothing."""
    value, exact, error = _farthest(outcome)
    return Row(
        suite="conformance",
        quantity="value",
        entry=outcome.case.__name__,
        library=PEERS[outcome.peer][0],
        value=value,
        reference=exact,
        error=error,
        tolerance=outcome.case.tolerance,
        note=_note(outcome),
    )


def cell_row(cell: sweep.Cell) -> Row:
    """Return a verdict of the sweep."""
    return Row(
        suite="conformance",
        quantity="bound and gradient",
        entry=cell.loss,
        variant=cell.site,
        library=PEERS[cell.peer][0],
        data=cell.feature,
        tolerance=sweep.TOLERANCE,
        note=_note(cell),
    )


def _note(found: Outcome | sweep.Cell) -> str:
    return f"{found.verdict}, was {found.recorded}" if found.changed else found.verdict


def _farthest(outcome: Outcome) -> tuple[float | None, float, float | None]:
    """Return the number that is farthest from the exact one, the exact one, and how far; no number where it raised.

    Of a program that returns another number of values than there are, it is the first.
    """
    exact = outcome.exact
    if outcome.value is None or not outcome.value.size:
        return None, float(exact[0]), None
    value = outcome.value if outcome.value.shape == exact.shape else outcome.value[: exact.size]
    with np.errstate(invalid="ignore"):  # of two that are infinite, and so equal
        errors = np.nan_to_num(np.abs(value - exact[: value.size]), posinf=np.inf)
    index = int(errors.argmax())
    return float(value[index]), float(exact[index]), float(errors[index])
