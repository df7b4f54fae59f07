"""One comparison of a hand-derived number with an automatic one, and the table of many."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.expectations import Estimate
from latentzoo.models.language.errors import UserError

TOLERANCE = 1e-10  # of the largest entry, or of one where that is smaller
STANDARD_ERRORS = 5.0  # of a z-test: one false alarm in two million numbers

Gradient = Mapping[str, np.ndarray]

# Why each way is as strong as it is, for the foot of the table.
WAYS = {
    "conjugate probe": "log p - log q is linear in the sites' sufficient statistics (residual below 1e-12), so solving"
    " for its coefficients and inserting the expectations is exact",
    "enumeration": "the library sums over every state",
    "common noise": "the same standard normal noise by hand and in the library",
    "quadrature": "one scalar site, by the trapezoid rule on its unconstrained line",
    "z-test": "no exact way is known: draws, and an allowance of five standard errors",
    "zero-variance certificate": "at the optimum of its blocks every single draw of the ELBO is the bound itself",
}


class Check(NamedTuple):
    """One comparison: a bound, or its gradient by one parameter, at one point, in one library.

    way: how the automatic number was had, and for which sites. hand, automatic: the numbers where they differ most.
    error, tolerance: the largest absolute difference, and what it may be. where: the index of that entry.
    """

    entry: str
    variant: str
    library: str
    point: str
    quantity: str
    way: str
    hand: float
    automatic: float
    error: float
    tolerance: float
    ok: bool
    where: str


@dataclass(frozen=True)
class Report:
    """The outcome of a verification: `ok`, the `rows`, and a table when printed."""

    rows: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether there is a comparison, and every one holds."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def __str__(self) -> str:
        groups: dict[tuple[str, str, str, str], list[Check]] = {}
        for row in self.rows:
            groups.setdefault((row.entry, row.variant, row.library, row.way), []).append(row)
        ways = [f"{way}: {why}" for way, why in WAYS.items() if any(way in row.way for row in self.rows)]
        failed = [f"FAILED {_sentence(row)}" for row in self.rows if not row.ok]
        count = f"{sum(row.ok for row in self.rows)} of {len(self.rows)} comparisons hold"
        return "\n".join([*_table(groups), "", *ways, *failed, count])


def _table(groups: dict[tuple[str, str, str, str], list[Check]]) -> list[str]:
    """Return aligned lines: one for each model, variant, library and way, with the worst of its numbers."""
    table = [("", "model", "variant", "library", "numbers", "worst", "off by", "allowed", "way")]
    for (entry, variant, library, way), rows in groups.items():
        worst = max(rows, key=lambda row: row.error / row.tolerance)
        state = "ok" if all(row.ok for row in rows) else "FAILED"
        numbers = (str(len(rows)), worst.quantity, f"{worst.error:.1e}", f"{worst.tolerance:.1e}")
        table.append((state, entry, variant, library, *numbers, way))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _sentence(row: Check) -> str:
    name = "the ELBO" if row.quantity == "elbo" else f"the gradient by {row.quantity}"
    return (
        f"{row.entry} [{row.variant}] {row.library}: {name}{row.where} is {row.hand:.12g} by hand and"
        f" {row.automatic:.12g} automatically, off by {row.error:.3g} (allowed {row.tolerance:.1e}), at {row.point}"
    )


# --- the comparison ---------------------------------------------------------------------------------------------------


class Hand(NamedTuple):
    """A hand-derived bound and its gradient by name."""

    value: float
    gradient: Gradient


class Case(NamedTuple):
    """What is compared: names for the table, and the hand-derived numbers."""

    entry: str
    variant: str
    point: str
    hand: Hand


def compare(case: Case, library: str, way: str, automatic: Estimate) -> Iterator[Check]:
    """Yield the row of the bound and of the gradient by each parameter."""
    yield check(case, library, way, "elbo", case.hand.value, automatic.value, automatic.value_error)
    for name, auto in automatic.gradient.items():
        yield check(case, library, way, name, case.hand.gradient[name], auto, automatic.gradient_error[name])


def check(
    case: Case, library: str, way: str, quantity: str, hand: Any, automatic: Any, standard_error: Any = 0.0
) -> Check:
    """Compare two arrays, to 1e-10 of their largest entry (of one, where that is smaller)."""
    hand, automatic = np.asarray(hand, dtype=np.float64), np.asarray(automatic, dtype=np.float64)
    if hand.shape != automatic.shape:
        raise UserError(f"the gradient by {quantity} has shape {hand.shape}: it must be {automatic.shape}")
    scale = max(1.0, float(np.abs(automatic).max(initial=0.0)))
    allowed = np.broadcast_to(TOLERANCE * scale + STANDARD_ERRORS * np.asarray(standard_error), hand.shape)
    difference = np.abs(hand - automatic)
    excess = np.where(np.isfinite(difference), difference / allowed, np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), hand.shape)) if hand.size else ()
    where = f"[{', '.join(map(str, at))}]" if at else ""
    return Check(
        entry=case.entry,
        variant=case.variant,
        library=library,
        point=case.point,
        quantity=quantity,
        way=way,
        hand=float(hand[at]),
        automatic=float(automatic[at]),
        error=float(difference[at]),
        tolerance=float(allowed[at]),
        ok=bool((excess <= 1.0).all()),
        where=where,
    )
