"""Runs suites: one unit of work after another, each timed, none able to stop the others.

A suite is a module of this folder that declares `SUITE`, one line on what it measures; it is found by its file. It has
`units(context)`, which yields units of work, and `section(rows, folder)`, its part of `results.md`.
"""

import ast
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from latentzoo.benchmarks import report
from latentzoo.benchmarks.results import Catalogues, Results, Row, describe, open_results
from latentzoo.inference.registry import names
from latentzoo.models.language.errors import UserError, choose


class Context(NamedTuple):
    """What a suite is run with: the folder for its files, and the settings of the bench.

    rows: returns the rows that were measured so far, of every suite.
    """

    folder: Path
    quick: bool
    seed: int
    catalogues: Catalogues
    rows: Callable[[], Sequence[Row]] = tuple


class Unit(NamedTuple):
    """A unit of work: its name within the suite, and what yields its rows.

    reads: the units of the same suite, listed before, whose rows it is made of: it is made anew when one of them is.
    """

    name: str
    work: Callable[[], Iterable[Row]]
    reads: Sequence[str] = ()


class Suite(Protocol):
    """What a module must have to be a suite."""

    SUITE: str

    def units(self, context: Context) -> Iterator[Unit]:
        """Yield the units of work."""

    def section(self, rows: Sequence[Row], folder: Path) -> str:
        """Return the Markdown of the suite's rows; links are relative to the folder."""


def suites() -> dict[str, str]:
    """Return the suites by name, each with its line: the modules of this folder that declare `SUITE`."""
    folder = Path(__file__).parent
    found = {path.stem: _declared(path) for path in sorted(folder.glob("*.py"))}
    return {name: line for name, line in found.items() if line}


def _declared(path: Path) -> str:
    """Read the line from the source: to list the suites is not to load them."""
    for node in ast.parse(path.read_bytes(), filename=str(path)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="SUITE")], value=ast.Constant(value=str(line))):
                return line
    return ""


def load(name: str) -> Suite:
    """Import a suite."""
    return cast(Suite, importlib.import_module(f"latentzoo.benchmarks.{name}"))


def run(
    suites: Sequence[str],
    out: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    catalogues: Catalogues | None = None,
) -> bool:
    """Run suites and write `results.json`, `results.md` and their files; return whether every claim holds.

    Parameters
    ----------
    suites: their names; all of them when empty.
    out: the folder, made if need be. A bench that was stopped goes on where it was when it is started again.
    quick: measure less, in minutes.
    seed: of all that is random.
    catalogues: {entry: (file, options of its reader and fields of its Spec)}: data sets to fit beside simulated ones.

    Raises
    ------
    UserError: an unknown suite or entry, a file that cannot be read, a folder that cannot be written.
    """
    known, catalogues = _known(), catalogues or {}
    wanted = [choose(name, known, "suite") for name in dict.fromkeys(suites or known)]
    for entry in catalogues:
        choose(entry, names(), "model")
    settings = describe(seed, quick, catalogues)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    with _Screen() as screen:
        results = open_results(out, settings, screen.say)
        context = Context(out, quick, seed, catalogues, rows=lambda: results.rows)
        try:
            _run_units(wanted, context, results, screen)
            results.finish()
        finally:
            written = {row.suite for row in results.rows}
            report.write(results, out, {name: load(name) for name in known if name in written})
            screen.say(f"wrote {out / 'results.md'}")
    return not any(row.ok is False for row in results.rows if row.suite in wanted)


def _known() -> dict[str, str]:
    return suites()


def _run_units(wanted: Sequence[str], context: Context, results: Results, screen: "_Screen") -> None:
    todo = _todo([(name, unit) for name in wanted for unit in _listed(name, context)], results)
    screen.start(len(todo))
    for name, unit in todo:
        screen.now(f"{name}: {unit.name}")
        screen.say(_run_unit(name, unit, results), done=True)


def _todo(listed: Sequence[tuple[str, Unit]], results: Results) -> list[tuple[str, Unit]]:
    """Return the units that are left, and forget those that are made of rows which are still to come.

    They are forgotten at once: a bench that is stopped between the two must not take the old for the new.
    """
    left: dict[str, tuple[str, Unit]] = {}
    for suite, unit in listed:
        work = f"{suite}/{unit.name}"
        stale = any(f"{suite}/{read}" in left for read in unit.reads)
        if stale:
            results.forget(work)
        if stale or work not in results.done:
            left[work] = suite, unit
    return list(left.values())


def _listed(name: str, context: Context) -> list[Unit]:
    """Return the units of a suite; of one that cannot even list them, a unit that fails by saying so."""
    try:
        return list(load(name).units(context))
    except Exception as error:
        failure = error

    def fail() -> Iterable[Row]:
        raise failure

    return [Unit("its units", fail)]


def _run_unit(suite: str, unit: Unit, results: Results) -> str:
    """Run one unit and keep its rows; return a line on how it went. Only an interrupt comes through."""
    work, start = f"{suite}/{unit.name}", time.perf_counter()
    results.begin(work)
    before, last = len(results.rows), start
    try:
        for row in unit.work():
            now = time.perf_counter()
            results.add(row._replace(work=work, seconds=round(now - last, 6) if row.seconds is None else row.seconds))
            last = now
    except Exception as error:
        results.add(Row(suite, unit.name, ok=False, note=_line(error), work=work, seconds=time.perf_counter() - last))
        return f"FAILED {work}: {_line(error)}"
    seconds = time.perf_counter() - start
    results.complete(work, seconds)
    made = results.rows[before:]
    failed = sum(row.ok is False for row in made)
    return f"{'FAILED' if failed else 'ok'} {work}: {len(made)} rows, {failed} failed, {seconds:.1f} s"


def _line(error: Exception) -> str:
    """Return an error as one line; a user's own mistake speaks for itself."""
    words = " ".join(str(error).split()) or "no message"
    return words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"


class _Screen:
    """Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

    def __enter__(self) -> "_Screen":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}")]
        columns.append(TextColumn("{task.description}", markup=False))
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=0, left="")
        self.total = self.done = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def start(self, total: int) -> None:
        """Begin with so many units to do."""
        self.total, self.began = total, time.perf_counter()
        self.bar.update(self.task, total=total)
        self.bar.start()

    def now(self, what: str) -> None:
        """Show the unit that runs."""
        self.bar.update(self.task, description=what)

    def say(self, line: str, done: bool = False) -> None:
        """Print a line; done: a unit came to its end."""
        if done:
            self.done += 1
            left = (time.perf_counter() - self.began) / self.done * (self.total - self.done)
            self.bar.update(self.task, completed=self.done, left=f"about {left:.0f} s left")
            line = f"[{self.done}/{self.total}, about {left:.0f} s left] {line}"
        self.console.print(line)
