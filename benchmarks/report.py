"""`results.md`: what a bench found, for a person to read: failures first, then each suite with its pictures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from latentzoo.benchmarks.results import Results, Row
from latentzoo.models.language.files import atomic

LIBRARIES = ("latentzoo", "numpy", "scipy", "jax", "numpyro", "torch", "pyro-ppl", "arviz")


class Section(Protocol):
    """What the report needs of a suite."""

    SUITE: str

    def section(self, rows: Sequence[Row], folder: Path) -> str:
        """Return the Markdown of the suite's rows."""


def write(results: Results, folder: Path, suites: Mapping[str, Section]) -> Path:
    """Write `results.md` beside `results.json`; return its path."""
    path = folder / "results.md"
    parts = [_head(results), _failures(results.rows)]
    for name, suite in suites.items():
        rows = [row for row in results.rows if row.suite == name]
        parts.append(f"## {name}: {suite.SUITE}\n\n{_section(suite, rows, folder)}")
    with atomic(path, "w", encoding="utf-8") as file:
        file.write("\n\n".join(part.strip() for part in parts if part) + "\n")
    return path


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def by_data_set(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each data set, by the entry and the name of the data, in their order."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entry, row.data].append(row)
    return groups


def link(text: str, path: Path) -> str:
    """Return a Markdown link to a file, by its path in the folder of the bench."""
    return f"[{text}]({quote(path.as_posix())})"


def mark(ok: bool | None) -> str:
    """Return whether a claim holds, in a word; nothing where there is none."""
    return {True: "yes", False: "**NO**", None: ""}[ok]


def number(value: float | None) -> str:
    """Return a number as a person reads it."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1000.0 else f"{value:.4g}"


def _head(results: Results) -> str:
    settings = results.settings
    machine, versions = settings["machine"], settings["versions"]
    claims = [row.ok for row in results.rows if row.ok is not None]
    holding = sum(claims)
    if not claims:
        verdict = "**Nothing was measured yet.**"
    elif holding == len(claims):
        verdict = f"**All {len(claims)} claims hold.**"
    else:
        verdict = f"**{len(claims) - holding} of {len(claims)} claims do not hold.**"
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    load = "" if results.load_average is None else f"; load average {results.load_average} at the start"
    known = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    return (
        f"# What latentzoo's bench found\n\n{verdict} {_when(results)}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['platform']}{load}.\n"
        f"Python {versions['python']}; {known}; seed {settings['seed']}.\n\n"
        "Every number is in [results.json](results.json), one object a measurement."
    )


def _when(results: Results) -> str:
    kind = "Quick bench" if results.settings["quick"] else "Full bench"
    seconds = sum(results.done.values())
    if results.finished is None:
        return f"{kind}, stopped before its end: the same command goes on with it."
    day = datetime.fromisoformat(results.finished).strftime("%d %B %Y, %H:%M UTC")
    return f"{kind} of {day}: {len(results.done)} units of work in {seconds:.0f} s."


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if row.ok is False]
    if not failed:
        return ""
    return "## Failures\n\n" + "\n".join(f"- {_sentence(row)}" for row in failed)


def _sentence(row: Row) -> str:
    names = (row.suite, row.entry, row.variant and f"[{row.variant}]", row.library, row.data)
    what = " ".join(name for name in names if name)
    if row.error is None:
        return f"**{what}**: {row.quantity}: {row.note or number(row.value)}"
    sizes = f"{number(row.value)} against {number(row.reference)}, off by {row.error:.3g}"
    allowed = "" if row.tolerance is None else f" (allowed {row.tolerance:.1g})"
    return f"**{what}**: {row.quantity} is {sizes}{allowed}; {row.note}"


def _section(suite: Section, rows: list[Row], folder: Path) -> str:
    """Return a suite's own section; units that failed have no measurement, and stand among the failures."""
    measured = [row for row in rows if row.entry]
    return suite.section(measured, folder) if measured else "Nothing was measured."
