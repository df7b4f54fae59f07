"""The errata of the notes that the zoo grew out of: every page has its test and its line of the index.

The tests themselves, each called as its page, are in tests/errata, a file for each subject; what they all check, the
numbers in the pages among it, is in its conftest.py.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {path.stem.removeprefix("test_"): path for path in (ROOT / "tests" / "errata").glob("test_*.py")}
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "errata").glob("*.md"))}
INDEX = PAGES.pop("README")


def test_every_error_has_a_page_a_test_and_a_line_of_the_index() -> None:
    tests = [
        (subject, name)
        for subject, path in TESTS.items()
        for name in re.findall(r"^def test_(\w+)\(check: Check\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    rows = [line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = [re.fullmatch(r"\| `(\w+)` \| .+ \| \[.+\]\((\w+)\.md\) \|", row) for row in rows]
    assert all(listed), rows
    assert sorted(tests) == sorted(row.groups() for row in listed if row)
    assert sorted(name for _, name in tests) == sorted(PAGES)
    assert all(name.startswith(f"{subject}_") for subject, name in tests)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_its_test_and_links_to_code(name: str) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    assert f"`test_{name}` in [tests/errata/test_{name.partition('_')[0]}.py]" in page
    assert re.search(r"^Test: .*\sCode:\s.*\]\(\.\./\.\./(models|inference)/", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", [*PAGES.values(), INDEX], ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert local
    assert [link for link in local if not (path.parent / link).exists()] == []
