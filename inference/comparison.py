"""What `compare` returns: numbers by fit and by coordinate, as a table to read, as frames, and as a picture."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 120
_MOST_DECIMALS = 8


class ComparisonRow(NamedTuple):
    """One fit; None where a number has no meaning or is not known.

    name, method, library: which fit.
    elbo, elbo_error: in nats, with its Monte Carlo standard error (0 where it is exact); none of a sampler.
    log_density_per_row, log_density_error: of the rows, in nats a row, with its Monte Carlo standard error.
    held_out: whether of held-out rows, or of the fitted ones.
    distance: of the posterior means from the reference's, in its posterior sds, root mean square over coordinates.
    distance_error: what `distance` would be of the noise of the draws alone; one below it says nothing.
    sd_ratio: posterior sds over the reference's, geometric mean over coordinates; below 1 is over-confident.
    khat: of the Pareto-smoothed importance weights, of a variational fit.
    r_hat, ess: the largest and the smallest over sites, of a sampler.
    seconds, compile_seconds: of running, and apart from it of compiling.
    num_gradients: in passes over all rows.
    num_steps, converged: how long it ran, and whether it ended by itself.
    note: what a reader should know of this fit; empty when nothing is unusual.
    """

    name: str
    method: str
    library: str | None
    elbo: float | None
    elbo_error: float | None
    log_density_per_row: float | None
    log_density_error: float | None
    held_out: bool
    distance: float | None
    distance_error: float | None
    sd_ratio: float | None
    khat: float | None
    r_hat: float | None
    ess: float | None
    seconds: float | None
    compile_seconds: float | None
    num_gradients: float | None
    num_steps: int
    converged: bool
    note: str


class SiteRow(NamedTuple):
    """One coordinate of one site, in one fit, its components matched to the reference's.

    index: the place in the site; () of a scalar.
    mean, sd: of the posterior.
    reference_mean, reference_sd: those of the reference, None where there is none.
    distance: (mean - reference_mean) / reference_sd; None of the reference itself, and where that sd is zero.
    sd_ratio: sd / reference_sd, likewise.
    """

    name: str
    site: str
    index: tuple[int, ...]  # type: ignore[assignment]  # hides the method of tuples, which no row of numbers needs
    mean: float
    sd: float
    reference_mean: float | None
    reference_sd: float | None
    distance: float | None
    sd_ratio: float | None


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Fits of one model side by side: `print` it, or see `plot()`, `to_pandas()` and `sites_to_pandas()`.

    Attributes
    ----------
    model: the model and its Spec, in words.
    rows: one a fit.
    sites: one a fit and coordinate.
    reference: the name of the fit that the others are measured against, None when there is none.
    num_draws: how many draws of each posterior were taken.
    notes: what a reader should know of the comparison as a whole.
    """

    model: str
    rows: tuple[ComparisonRow, ...]
    sites: tuple[SiteRow, ...]
    reference: str | None
    num_draws: int
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> Any:
        """Return a DataFrame with one row a fit, by name; columns are the fields of `ComparisonRow`."""
        return _frame(self.rows, ComparisonRow).set_index("name")

    def sites_to_pandas(self) -> Any:
        """Return a DataFrame with one row a fit and coordinate; columns are the fields of `SiteRow`."""
        return _frame(self.sites, SiteRow)

    def plot(self) -> "Figure":
        """Return a figure: where each fit has the posterior of each coordinate, and what each fit cost."""
        from latentzoo.inference.pictures.comparison import draw

        return draw(self)

    def __str__(self) -> str:
        head = f"{self.model}: {_many(len(self.rows), 'fit')}, {self.num_draws:,} draws of each posterior"
        notes = [f"{row.name}: {row.note}" for row in self.rows if row.note]
        below = [_fill(_legend(self), indent=""), *(_fill(f"* {note}") for note in (*self.notes, *notes))]
        return "\n".join([head, "", *_table(self.rows), "", *below])

    __repr__ = __str__


# --- numbers as a person reads them ----------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, thousands in full; "-" for None."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1000.0 <= abs(value) < 1e15 else f"{value:.{digits}g}"


def with_error(value: float | None, error: float | None) -> str:
    """Return a number to the digits that its standard error allows; without one where it is exact (0)."""
    if value is None or np.isnan(value):
        return "-"
    if error == 0.0 or not np.isfinite(value):
        return f"{value:,.2f}" if abs(value) >= 1000.0 else f"{value:.6g}"
    if error is None or not np.isfinite(error):
        return f"{number(value, 6)} ± ?"
    decimals = min(max(1 - int(np.floor(np.log10(error))), 0), _MOST_DECIMALS)
    return " ± ".join(fixed(each, decimals) for each in (value, error))


def fixed(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals, but never a zero for what is not zero; "-" for None."""
    if value is None or np.isnan(value):
        return "-"
    text = f"{value:,.{decimals}f}"
    return text if value == 0.0 or text.strip("-0.,") else f"{value:.1g}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# --- the table --------------------------------------------------------------------------------------------------------

_HEAD = (  # over two lines, for the table to be no wider than its numbers
    ("", "ELBO", "log density", "distance", "sd", "", "", "", "", "", ""),
    (
        "name",
        "± error",
        "per row",
        "± error",
        "ratio",
        "k-hat",
        "R-hat",
        "seconds",
        "compile",
        "gradients",
        "converged",
    ),
)


def _table(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return the lines of the table."""
    return aligned(_HEAD, [_cells(row) for row in rows])


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    return (
        row.name,
        with_error(row.elbo, row.elbo_error),
        with_error(row.log_density_per_row, row.log_density_error),
        with_error(row.distance, row.distance_error),
        fixed(row.sd_ratio, 2),
        fixed(row.khat, 2),
        fixed(row.r_hat, 3),  # it is near one: its digits are those behind the point
        number(row.seconds),
        number(row.compile_seconds),
        number(row.num_gradients),
        "yes" if row.converged else "NO",
    )


def _legend(of: Comparison) -> str:
    """Return what the columns mean, and which fit is the reference."""
    rows = "held-out rows" if any(row.held_out for row in of.rows) else "the fitted rows"
    found = [f"ELBO in nats, exact where it has no ±. Log density in nats, of {rows}."]
    if of.reference is not None:
        found.append(
            f"The reference is {of.reference}. Distance: from its posterior means, in its posterior sds, root mean"
            " square over coordinates; ± is what the noise of the draws alone would make it. sd ratio: posterior sds"
            " over its own, geometric mean; below 1 is over-confident."
        )
    else:
        found.append("There is no reference, hence no distances: name a fit with reference=.")
    found.append("Seconds of running, compiling apart; gradients in passes over all rows.")
    return " ".join(found)


def _fill(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _frame(rows: Sequence[Any], kind: Any) -> Any:
    """Return a DataFrame of NamedTuples; a number that is not known is NaN there, in a column of floats."""
    import pandas as pd

    frame = pd.DataFrame.from_records(rows, columns=list(kind._fields))
    numbers = [name for name, hint in kind.__annotations__.items() if hint in (float, float | None)]
    return frame.astype(dict.fromkeys(numbers, float))
