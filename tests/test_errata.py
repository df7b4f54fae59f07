"""The errata of the notes that the zoo grew out of: the wrong form fails, the right one passes.

The measurements, each called as its page, are in tests/errata, a file for each subject. Each measures rows,
(label, notes, zoo, truth, margin): by the form in the notes, which is written out there only; by the zoo's; and the
truth, which comes from neither. margin: what the notes miss the truth by at least; zero where the two forms agree. The
page quotes the same numbers, and has its line of the index.
"""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "errata").glob("*.md"))}
INDEX = PAGES.pop("README")
TOLERANCE = 1e-10


def subject(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"errata_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUBJECTS = {path.stem: subject(path) for path in sorted((ROOT / "tests" / "errata").glob("*.py"))}
ERRATA = {
    name.removeprefix("test_"): (stem, function)
    for stem, module in SUBJECTS.items()
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if name.startswith(f"test_{stem}_")
}


class Row(NamedTuple):
    """One measurement."""

    label: str
    notes: float
    zoo: float
    truth: float
    margin: float


@pytest.mark.parametrize("name", ERRATA)
def test_the_wrong_form_fails_and_the_right_one_passes(name: str) -> None:
    _, measure = ERRATA[name]
    found: list[Row] = []
    measure(lambda *rows: found.extend(Row(*row) for row in rows))
    assert found
    table = quoted(PAGES[name].read_text(encoding="utf-8"))
    assert list(table) == [row.label for row in found]
    for row in found:
        check_row(row)
        for cell, value in zip(table[row.label], (row.notes, row.zoo, row.truth), strict=True):
            check_cell(cell, value, row.label)


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


# --- pages, tests and the index ---------------------------------------------------------------------------------------


def test_every_error_has_a_page_a_test_and_a_line_of_the_index() -> None:
    rows = [line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = [re.fullmatch(r"\| `(\w+)` \| .+ \| \[.+\]\((\w+)\.md\) \|", row) for row in rows]
    assert all(listed), rows
    assert sorted((stem, name) for name, (stem, _) in ERRATA.items()) == sorted(row.groups() for row in listed if row)
    assert sorted(ERRATA) == sorted(PAGES)


def test_the_example_of_the_index_is_the_one_that_is_measured() -> None:
    SUBJECTS["earthquakes"].example_is_that_of_the_page()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_its_test_and_links_to_code(name: str) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    assert f"`test_{name}` in [tests/errata/{ERRATA[name][0]}.py]" in page
    assert re.search(r"^Test: .*\sCode:\s.*\]\(\.\./\.\./(models|inference)/", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", [*PAGES.values(), INDEX], ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert local
    assert [link for link in local if not (path.parent / link).exists()] == []
