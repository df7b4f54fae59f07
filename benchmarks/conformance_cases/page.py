"""The report: plain text for a terminal, Markdown for people, JSON for programs."""

import json
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from itertools import groupby
from typing import Any

from latentzoo.benchmarks.conformance_cases.case import (
    PEERS,
    RECORDED_WITH,
    VERDICTS,
    Case,
    Outcome,
    Peer,
    cases,
    source,
)
from latentzoo.benchmarks.conformance_cases.sweep import FEATURES, SWEPT, Cell
from latentzoo.benchmarks.report import table
from latentzoo.benchmarks.results import Row
from latentzoo.inference.tables import aligned

MARKS: dict[str, str] = {"right": "🟩", "wrong": "🟥", "warns": "🟧", "raises": "🟨", "absent": "⬜"}
LEGEND = "\n".join(f"- {MARKS[verdict]} {verdict}: {text}" for verdict, text in VERDICTS.items())
# The columns of the summary: a library, and the peers beneath or beside it.
COLUMNS: dict[str, tuple[Peer, ...]] = {"Pyro": ("pyro", "torch", "sklearn"), "NumPyro": ("numpyro", "jax")}
BLANK = "–"
# What makes a program run as it stands.
_TORCH = "import torch\n\ntorch.set_default_dtype(torch.float64)\n\n\n"
_JAX = 'import jax\n\njax.config.update("jax_enable_x64", True)\n\n\n'
PREAMBLES: dict[Peer, str] = {"pyro": _TORCH, "torch": _TORCH, "numpyro": _JAX, "jax": _JAX, "sklearn": ""}


# --- rows -------------------------------------------------------------------------------------------------------------


def _is_swept(row: Row) -> bool:
    return bool(row.variant)


def _verdict(row: Row) -> str:
    return row.note.partition(",")[0]


def _changed(row: Row) -> bool:
    return "," in row.note


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each case."""
    each = [row for row in rows if not _is_swept(row)]
    return {name: list(group) for name, group in groupby(each, key=lambda row: row.entry)}


def _digits(rows: Sequence[Row]) -> int:
    """Return how many digits show that values which are wrong differ from the exact one."""
    errors = [(row.error, row.reference) for row in rows if row.error and row.reference and _verdict(row) != "right"]
    sizes = [error / abs(exact) for error, exact in errors if math.isfinite(error / abs(exact))]
    return max([4, *(2 + math.ceil(-math.log10(size)) for size in sizes)])


def _number(value: float | None, digits: int) -> str:
    return BLANK if value is None else f"{value + 0.0:.{digits}g}"


# --- plain text -------------------------------------------------------------------------------------------------------


def text(rows: Sequence[Row]) -> str:
    """Return the tables for a terminal, and how many verdicts have changed."""
    changed = sum(map(_changed, rows))
    end = f"Verdicts that changed since they were recorded: {changed}."
    return "\n\n".join([_text_of_cases(rows), *(_text_of_sweep(rows, PEERS[peer][0]) for peer in SWEPT), end]) + "\n"


def _text_of_cases(rows: Sequence[Row]) -> str:
    lines = []
    for name, group in _groups(rows).items():
        digits = _digits(group)
        for row in group:
            numbers = [_number(row.reference, digits), _number(row.value, digits)]
            lines.append([name, row.library, *numbers, row.note])
    return "\n".join(aligned([["case", "library", "exact", "value", "verdict"]], lines))


def _text_of_sweep(rows: Sequence[Row], library: str) -> str:
    words = [name.split() for name in FEATURES]
    depth = max(map(len, words))
    head = [
        [library if line == depth - 1 else "", *((([""] * depth) + each)[-depth:][line] for each in words)]
        for line in range(depth)
    ]
    lines = [
        [label, *(("." if row.note == "right" else row.note) if row else "" for row in line)]
        for label, line in _sweep_lines(rows, library)
    ]
    return "\n".join(aligned(head, lines)) if lines else ""


def _sweep_lines(rows: Sequence[Row], library: str) -> list[tuple[str, list[Row | None]]]:
    """Return the rows of each loss and kind of site of a library, one a feature; None where there is nothing."""
    swept = [row for row in rows if _is_swept(row) and row.library == library]
    found = {}
    for (loss, site), group in groupby(swept, key=lambda row: (row.entry, row.variant)):
        by_feature = {row.data: row for row in group}
        found[f"{loss}, {site}"] = [by_feature.get(feature) for feature in FEATURES]
    return list(found.items())


# --- Markdown ---------------------------------------------------------------------------------------------------------


def page(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """Return the whole report: the summary, the sweep, and each case with its programs."""
    groups = [list(group) for _, group in groupby(outcomes, key=lambda outcome: outcome.case)]
    wrong = sum(any(outcome.verdict in ("wrong", "warns") for outcome in group) for group in groups)
    parts = [
        "# Conformance of Pyro, NumPyro and their peers",
        f"{len(groups)} things that users do, each with its exact value. In {wrong} of them a library returns another"
        f" number. Verdicts that changed since they were recorded: {sum(map(_changed, rows))}.",
        f"Measured with {', '.join(f'{name} {version}' for name, version in versions().items())}.",
        LEGEND,
        f"## Cases\n\n{summary(rows)}",
        f"## Every loss with what may stand around a site\n\n{pictures(rows)}",
        "## Programs\n\nAll is in float64 unless a case says otherwise. Each program runs as it stands.",
        *map(_case, groups),
    ]
    return "\n\n".join(parts) + "\n"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    found = {"Python": platform.python_version()}
    for name in RECORDED_WITH:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def summary(rows: Sequence[Row]) -> str:
    """Return a line for each case: the exact value, and each library's with its verdict."""
    titles = {case.__name__: case.title for case in cases()}
    lines = []
    for name, group in _groups(rows).items():
        digits = _digits(group)
        found = [
            "<br>".join(_found(row, digits, column) for row in group if row.library in _names(peers))
            for column, peers in COLUMNS.items()
        ]
        exact = _number(group[0].reference, digits)
        lines.append([f"[{name}](#{name.lower()})", titles.get(name, ""), exact, *found])
    return table(["case", "what goes wrong", "exact", *(", ".join(_names(peers)) for peers in COLUMNS.values())], lines)


def _names(peers: Sequence[Peer]) -> list[str]:
    return [PEERS[peer][0] for peer in peers]


def _found(row: Row, digits: int, column: str) -> str:
    """Return a mark, a value and a verdict; the library where the column is named first for another one."""
    library = "" if row.library == column else f"{row.library}: "
    value = "" if row.value is None else f"{_number(row.value, digits)}, "
    return f"{MARKS[_verdict(row)]} {library}{value}{f'**{row.note}**' if _changed(row) else row.note}"


def pictures(rows: Sequence[Row]) -> str:
    """Return, for each library, the verdict on each loss and kind of site with each feature."""
    parts = []
    for peer in SWEPT:
        library = PEERS[peer][0]
        lines = [
            [
                label,
                *(f"{MARKS[_verdict(row)]}{' **changed**' if _changed(row) else ''}" if row else "" for row in line),
            ]
            for label, line in _sweep_lines(rows, library)
        ]
        if lines:
            parts.append(table([library, *FEATURES], lines))
    return "\n\n".join([_ON_THE_SWEEP, *parts])


_ON_THE_SWEEP = (
    "Each cell is a model z, x ~ Normal(z, 1) of two rows, its bound and the gradient in the guide's parameters,"
    " compared with the exact ones to 1e-9. A normal z is drawn at ±1 standard deviations, which integrates the"
    " quadratic forms exactly; a sampled coin is drawn in every state, weighted by the guide. RenyiELBO has one"
    " particle, which makes it the ELBO. NumPyro runs without jit. Blank: there is no exact value to compare with."
)


def _case(group: list[Outcome]) -> str:
    case = group[0].case
    exact = ", ".join(_number(value, 12) for value in group[0].exact)
    said = [
        f"### {case.__name__}",
        f"**{case.title}.** A user {case.user}.",
        f"Exact: {exact} ({case.known}; tolerance {case.tolerance:g}).",
        case.note,
    ]
    return "\n\n".join([*filter(None, said), *map(_program, group)])


def _program(outcome: Outcome) -> str:
    case, peer = outcome.case, outcome.peer
    values = "" if outcome.value is None else f" {', '.join(_number(value, 12) for value in outcome.value)}"
    was = f" (**changed**: it was {outcome.recorded})" if outcome.changed else ""
    told = f" `{outcome.message}`" if outcome.message else ""
    head = f"{MARKS[outcome.verdict]} {PEERS[peer][0]}, {outcome.verdict}{was}:{values}{told}".rstrip(":")
    return f"{head}\n\n```python\n{listing(case, peer)}```" if source(case, peer) else f"{head}."


def listing(case: type[Case], peer: Peer) -> str:
    """Return a program that runs as it stands and prints its value."""
    preamble = PREAMBLES[peer] if case.dtype == "float64" else ""
    return f"{preamble}{source(case, peer)}\n\nprint({peer}())\n"


# --- JSON -------------------------------------------------------------------------------------------------------------


def document(outcomes: Sequence[Outcome], cells: Sequence[Cell]) -> str:
    """Return all that was found as JSON; a number that is not finite is a string."""
    held = {
        "versions": versions(),
        "recorded_with": RECORDED_WITH,
        "cases": [_json_case(list(group)) for _, group in groupby(outcomes, key=lambda outcome: outcome.case)],
        "sweep": [cell._asdict() for cell in cells],
    }
    return json.dumps(held, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json_case(group: list[Outcome]) -> dict[str, Any]:
    case = group[0].case
    words = {field: getattr(case, field) for field in ("title", "user", "known", "tolerance", "note", "dtype")}
    libraries = {
        outcome.peer: {
            "verdict": outcome.verdict,
            "recorded": outcome.recorded,
            "value": None if outcome.value is None else _plain(outcome.value),
            "message": outcome.message,
            "program": listing(case, outcome.peer) if source(case, outcome.peer) else None,
        }
        for outcome in group
    }
    return {"name": case.__name__, **words, "exact": _plain(group[0].exact), "libraries": libraries}


def _plain(values: Any) -> list[float | str]:
    return [value if math.isfinite(value) else str(value) for value in values.tolist()]
