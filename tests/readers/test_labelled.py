"""The reader of tables with labels: which columns and rows it reads, what it refuses and what it says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from latentzoo.models.language.errors import UserError
from latentzoo.models.readers.labelled import LabelledTable, read_labelled, write_labelled

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("labelled") / "table.csv"


def taken(path: Path, content: str, num_classes: int = 2, **options: object) -> LabelledTable:
    path.write_text(content)
    return read_labelled(path, num_classes, **options)  # type: ignore[arg-type]


def refusal(path: Path, content: str | bytes | None, **options: object) -> str:
    """Return the one line with which reading is refused."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_labelled(path, 2, **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    return line


@settings(max_examples=40)
@given(
    x=arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FINITE),
    data=st.data(),
)
def test_what_is_written_is_read_back_bit_for_bit(scratch: Path, x: np.ndarray, data: st.DataObject) -> None:
    label = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=len(x), max_size=len(x))))
    names = [f"x{place}" for place in range(x.shape[1])]
    write_labelled(scratch, x, label, names)
    back = read_labelled(scratch, 4)
    np.testing.assert_array_equal(back.x, x)
    np.testing.assert_array_equal(back.label, label)
    assert back.columns == tuple(names)
    assert back.label.dtype == np.int64


TABLE = "a,label,b,kind\n1,0,2,\n3,,4,1\n5,NA,6,0\n"


def test_labels_are_a_column_of_their_own(file: Path) -> None:
    table = taken(file, TABLE, columns=("b", "a"))
    assert table.columns == ("b", "a")
    assert table.x.tolist() == [[2, 1], [4, 3], [6, 5]]
    assert table.label.tolist() == [0, -1, -1]


def test_another_column_may_hold_them(file: Path) -> None:
    table = taken(file, TABLE, columns=("a", "b"), label="kind")
    assert table.label.tolist() == [-1, 1, 0]
    assert taken(file, "y,label\n0,0.5\n1,1.5\n", label="y").columns == ("label",)


def test_without_such_a_column_there_are_no_labels(file: Path) -> None:
    table = taken(file, "a,b\n1,2\n3,4\n")
    assert table.label is None
    assert table.columns == ("a", "b")


def test_a_column_without_any_label(file: Path) -> None:
    table = taken(file, "a,label,empty\n1,,\n3,,\n")
    assert table.label.tolist() == [-1, -1]
    assert table.columns == ("a",)
    assert table.report.columns_left_out == {"empty": "holds nothing"}


def test_rows_are_left_out_by_their_lines(file: Path) -> None:
    content = "a,label\n1,0\n\n,1\n2,7\ninf,0\n3,0.5\n4,1\n5,\n6,-1\n"
    table = taken(file, content, on_bad="skip")
    assert table.x.tolist() == [[1], [4], [5]]
    assert table.label.tolist() == [0, 1, -1]
    reasons = {"a not finite": (6,), "a missing": (4,), "label no class from 0 to 1": (5, 7, 10)}
    assert table.report.left_out == reasons
    assert (table.report.num_rows, table.report.num_kept) == (8, 3)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("a,label\n1,0\n2,2\n", {}, "1 label no class from 0 to 1 (line 3)"),
        ("a,label\n1,0\n,1\n", {}, "1 a missing (line 3)"),
        ("a,label\n1,0\n2,one\n", {}, "column 'label' holds no labels ('one' on line 3)"),
        ("a,label\n1,0\n2,one\n", {"columns": ("a",)}, "label not a number"),
        ("a,label\n1,0\n", {"label": "labels"}, "did you mean 'label'"),
        ("a,label\n1,0\n", {"columns": ("a", "label")}, "columns names 'label', which holds the labels"),
        ("a,label\n1,0\n", {"columns": "a"}, "columns is 'a'"),
        ("a,label\n1,0\n", {"columns": ("aa",)}, "did you mean 'a'"),
        ("a,label\n1,0\n", {"on_bad": "skp"}, "did you mean 'skip'"),
        ("label\n1\n", {}, "no features"),
        ("a,label\n2,5\n", {"on_bad": "skip"}, "none is left"),
        ("a,label\n", {}, "has a header and no rows"),
        ("", {}, "is empty"),
        ("", {"label": "y"}, "is empty"),
        (b"a,label\n\xe9,0\n", {}, "UTF-8"),
        (b"a\0,label\n1,0\n", {}, "binary"),
        (None, {}, "cannot read"),
    ],
)
def test_a_mistake_is_one_line(file: Path, content: str | bytes | None, options: dict[str, object], words: str) -> None:
    assert words in refusal(file, content, **options)


def test_a_feature_that_is_called_as_the_labels_cannot_be_written(file: Path) -> None:
    with pytest.raises(UserError, match="rename that feature"):
        write_labelled(file, np.ones((1, 1)), np.zeros(1, dtype=int), ["label"])
