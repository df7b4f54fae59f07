"""The check that every erratum's test makes, against its page in docs/errata.

A row is one measurement, (label, notes, zoo, truth, margin): by the form in the notes, which is written out in tests
only; by the zoo's; and the truth, which comes from neither. margin: what the notes miss the truth by at least; zero
where the two forms agree.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs" / "errata"
TOLERANCE = 1e-10


class Row(NamedTuple):
    """One measurement."""

    label: str
    notes: float
    zoo: float
    truth: float
    margin: float


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Check that the zoo's form is true and the notes' is not, and that the page of this test quotes these rows."""
    page = PAGES / f"{request.node.name.removeprefix('test_')}.md"

    def check_rows(*given: tuple[str, float, float, float, float]) -> None:
        rows = [Row(*row) for row in given]
        for row in rows:
            check_row(row)
        table = quoted(page.read_text(encoding="utf-8"))
        assert list(table) == [row.label for row in rows]
        for row in rows:
            for cell, value in zip(table[row.label], (row.notes, row.zoo, row.truth), strict=True):
                check_cell(cell, value, row.label)

    return check_rows


def check_row(row: Row) -> None:
    """The zoo has the truth; the notes miss it by the margin, or agree where there is none."""
    assert row.zoo == pytest.approx(row.truth, rel=0, abs=TOLERANCE), row.label
    if row.margin:
        assert not abs(row.notes - row.truth) <= row.margin, row.label  # what is not a number misses, too
    else:
        assert row.notes == pytest.approx(row.truth, rel=0, abs=TOLERANCE), row.label


def quoted(page: str) -> dict[str, list[str]]:
    """Return the cells of the page's only table by their labels."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return {label: cells for label, *cells in lines[2:]}


def check_cell(cell: str, value: float, label: str) -> None:
    """A number is quoted to its last decimal; a whole number is meant as one."""
    decimals = len(cell.partition(".")[2])
    rounding = 0.5 * 10.0**-decimals if decimals else 0.0
    assert float(cell) == pytest.approx(value, rel=0, abs=rounding + TOLERANCE, nan_ok=True), label
