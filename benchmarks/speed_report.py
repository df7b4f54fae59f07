"""The part of the report on speed: one table of what is asked, the limits of the machine, and the picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from latentzoo.benchmarks.fresh import MEMORY, POINT
from latentzoo.benchmarks.paired import MISSING, OURS, TIMES
from latentzoo.benchmarks.report import mark, number, table
from latentzoo.benchmarks.results import Row

MACHINE = "this machine"
SHARE = "share of the exponentials that could be done,"


class Outcome(NamedTuple):
    """The rows of one comparison, by quantity and whose they are: ours, or the peer's."""

    entry: str
    variant: str
    data: str
    ours: Mapping[str, Row]
    peer: Mapping[str, Row]

    @property
    def name(self) -> str:
        """What was done, and against whom."""
        return f"{self.entry}, {self.variant}, {self.data}"


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return the comparisons that have a ratio, in the order of their rows."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.data:
            groups[row.entry, row.variant, row.data].append(row)
    found = [
        Outcome(
            *key,
            {row.quantity: row for row in group if row.library == OURS},
            {row.quantity: row for row in group if row.library != OURS},
        )
        for key, group in groups.items()
    ]
    return [one for one in found if TIMES in one.peer]


def section(rows: Sequence[Row]) -> str:
    """Return the Markdown of a suite of comparisons."""
    intro = (
        "Each side runs in a fresh process of its own, in turn, from the same data and the same start. Seconds an"
        " iteration are those of many iterations less those of one, over their number: what is done once is left out."
        " Memory is the peak of the process while it runs, less what it had with its data in place and all code loaded."
        " A pair counts where other processes used less than a tenth of a core meanwhile. A ratio is the median of"
        " those of the pairs, and their range is in the note."
    )
    head = [
        "work",
        "times as fast",
        "asked for",
        "holds",
        "ns a point and component",
        "peak extra MiB",
        "ms",
        "peer's ms",
    ]
    head += ["peer's MiB", "note"]
    parts = [intro, table(head, [_line(one) for one in outcomes(rows)]), _missing(rows), _limits(rows)]
    return "\n\n".join(part for part in parts if part)


def _line(one: Outcome) -> list[str]:
    ratio = one.peer[TIMES]
    asked = "" if ratio.reference is None else f"at least {number(ratio.reference)}"
    claims = [row.ok for row in (*one.ours.values(), ratio) if row.ok is not None]
    return [
        one.name,
        number(ratio.value),
        asked,
        mark(all(claims) if claims else None),
        _figure(one.ours, POINT),
        _figure(one.ours, MEMORY),
        _milliseconds(one.ours),
        _milliseconds(one.peer),
        _figure(one.peer, MEMORY),
        ratio.note,
    ]


def _figure(rows: Mapping[str, Row], quantity: str) -> str:
    row = rows.get(quantity)
    if row is None:
        return ""
    verdict = "" if row.ok is None else f": {mark(row.ok)}"
    return number(row.value) + ("" if row.reference is None else f" (at most {number(row.reference)}{verdict})")


def _milliseconds(rows: Mapping[str, Row]) -> str:
    """Return the time of an iteration; of a comparison of another kind, what it has."""
    timed = next((row for name, row in rows.items() if name.startswith("seconds")), None)
    return "" if timed is None or timed.value is None else number(1e3 * timed.value)


def _missing(rows: Sequence[Row]) -> str:
    lines = [f"- {row.entry}, {row.variant}, {row.data}: {row.note}" for row in rows if row.quantity == MISSING]
    return "\n".join(["Not measured, since a library is not installed:\n", *lines]) if lines else ""


def _limits(rows: Sequence[Row]) -> str:
    """Return what the machine can do at the most, and how much of it the mixture kernel does."""
    limits = [[row.quantity, number(row.value)] for row in rows if row.entry == MACHINE]
    shares = [
        [row.variant, row.quantity.removeprefix(SHARE).strip(), f"{100.0 * (row.value or 0.0):.0f} %"]
        for row in rows
        if row.quantity.startswith(SHARE)
    ]
    parts = []
    if limits:
        parts += [
            "The limits of this machine, measured in the same run on all cores:",
            table(["what", "at most"], limits),
        ]
    if shares:
        parts += [
            "The exponentials that the mixture kernel does a second, one a point and component, beside all its other"
            " work, as a share of what could be done of nothing else:",
            table(["kernel", "exponential", "share"], shares),
        ]
    return "\n\n".join(parts)
