"""The reader of tables: which columns and rows it reads, what it refuses and what it says."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from latentzoo.models.language.errors import UserError
from latentzoo.models.readers import table
from latentzoo.models.readers.table import Table, read_table, write_table

NAN = float("nan")
CELLS = st.floats(allow_nan=False, allow_infinity=False) | st.just(NAN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("table") / "table.csv"


def taken(path: Path, content: str | bytes, **options: object) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **options)  # type: ignore[arg-type]


def refusal(path: Path, content: str | bytes | None = None, **options: object) -> str:
    """Return the one line with which reading is refused."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_table(path, **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert str(path) in line or options
    return line


# What is read


@settings(max_examples=50)
@given(
    x=arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=CELLS),
    chunk_rows=st.integers(1, 6),
    packed=st.booleans(),
)
def test_what_is_written_is_read_back_bit_for_bit(scratch: Path, x: np.ndarray, chunk_rows: int, packed: bool) -> None:
    path = scratch.with_suffix(".csv.gz") if packed else scratch
    write_table(path, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK_ROWS", chunk_rows)
        read, columns, report = read_table(path, missing=True)
    assert read.tobytes() == x.tobytes()
    assert columns == tuple(f"x{place + 1}" for place in range(x.shape[1]))
    assert (report.num_rows, report.num_kept, report.left_out, report.columns_left_out) == (len(x), len(x), {}, {})
    if not np.isnan(x).any():
        assert read_table(path).x.tobytes() == x.tobytes()


NAMES = st.text(st.sampled_from('aB é",;|#='), min_size=1, max_size=5).filter(
    lambda name: name.split(" ") == name.split()
)


@given(columns=st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_names_are_read_back(scratch: Path, columns: list[str]) -> None:
    write_table(scratch, [range(len(columns))], columns)
    assert read_table(scratch).columns == tuple(columns)


def test_the_array_is_writable_and_in_double_precision(file: Path) -> None:
    x = taken(file, "a,b\n1,2\n3,4\n").x
    assert x.dtype == np.float64
    assert x.flags.writeable
    assert x.flags.c_contiguous
    assert x.tolist() == [[1, 2], [3, 4]]


def test_a_mark_of_byte_order_carriage_returns_blank_lines_and_gzip_are_fine(file: Path) -> None:
    content = b'\xef\xbb\xbf"a", b \r\n1, 2\r\n\r\n -3e2 ,+4'
    for path, packed in ((file, content), (file.with_suffix(".gz"), gzip.compress(content))):
        x, columns, _ = taken(path, packed)
        assert x.tolist() == [[1, 2], [-300, 4]]
        assert columns == ("a", "b")


def test_columns_without_numbers_or_a_name_are_left_out_and_named(file: Path) -> None:
    content = ',a,kind,note,b,\n"1",2,"setosa, of\nsome kinds",,3,\n"2",4,5,NA,6,\n'
    x, columns, report = taken(file, content)
    assert x.tolist() == [[2, 3], [4, 6]]
    assert columns == ("a", "b")
    kind, has = r"'setosa, of\nsome k...' on line 2", "has no name"
    assert report.columns_left_out == {"column 1": has, "kind": kind, "note": "holds nothing", "column 6": has}
    assert str(report) == (
        f"{file}: 2 of 2 rows read; "
        f"columns left out: column 1 ({has}), kind ({kind}), note (holds nothing), column 6 ({has})"
    )


def test_the_text_that_leaves_a_column_out_is_named_with_its_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 2)
    _, columns, report = taken(file, 'a,"b"\n1,1\n\n' + "2,2\n" * 4 + "3,n/a\n4,x\n")
    assert columns == ("a",)
    assert report.columns_left_out == {"b": "'n/a' on line 8"}


def test_many_columns_left_out_are_counted(file: Path) -> None:
    names = [f"t{place}" for place in range(12)]
    report = taken(file, ",".join(["a", *names]) + "\n1" + ",x" * 12 + "\n").report
    assert list(report.columns_left_out) == names
    assert str(report).endswith("t9 ('x' on line 2) and 2 more")


def test_columns_asked_for_come_in_their_order(file: Path) -> None:
    x, columns, report = taken(file, "a,b,c\n1,x,3\n", columns=["c", "a"])
    assert x.tolist() == [[3, 1]]
    assert columns == ("c", "a")
    assert str(report) == f"{file}: 1 of 1 rows read"


# Cells that are no finite numbers


@pytest.mark.parametrize("cell", ["", "NA", "na", "NaN", " nan ", "?"])
def test_a_missing_cell_is_refused_or_left_out_or_nan(file: Path, cell: str) -> None:
    line = refusal(file, f"a,b\n1,2\n{cell},4\n")
    assert "1 of 2 rows cannot be used: 1 a missing (line 3)" in line
    assert "fill the missing cells" in line
    assert "--on-bad skip" in line
    x, _, report = read_table(file, on_bad="skip")
    assert x.tolist() == [[1, 2]]
    assert (report.num_rows, report.num_kept, report.left_out) == (2, 1, {"a missing": (3,)})
    assert str(report) == f"{file}: 1 of 2 rows read; left out: 1 a missing (line 3)"
    x, _, report = read_table(file, missing=True)
    np.testing.assert_array_equal(x, [[1, 2], [NAN, 4]])
    assert str(report) == f"{file}: 2 of 2 rows read"


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("cell", "reason"),
    [("inf", "b not finite"), ("-1e999", "b not finite"), ("x", "b not a number"), ("null", "b not a number")]
    + [(cell, "b not a number") for cell in ("1_000", "0x10", "1;5", "'1'")],
)
def test_another_cell_is_refused_or_left_out(file: Path, cell: str, reason: str, missing: bool) -> None:
    options = {"columns": ["a", "b"], "missing": missing}
    line = refusal(file, f"a,b\n1,2\n3,{cell}\n", **options)
    assert f"1 of 2 rows cannot be used: 1 {reason} (line 3)" in line
    assert "fill the missing" not in line
    x, _, report = taken(file, f"a,b\n1,2\n3,{cell}\n", on_bad="skip", **options)
    assert x.tolist() == [[1, 2]]
    assert report.left_out == {reason: (3,)}


def test_infinity_is_a_mistake_and_no_text(file: Path) -> None:
    assert "1 b not finite (line 3)" in refusal(file, "a,b\n1,2\n3,inf\n")


def test_a_row_has_one_reason(file: Path) -> None:
    report = taken(file, "a,b\n,\n1,2\n,inf\n3,\n", on_bad="skip").report
    assert report.left_out == {"a missing": (2, 4), "b missing": (5,)}
    assert "none is left" in refusal(file, "a,b\n,inf\n1,inf\n", on_bad="skip")


# Mistakes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: a table has a header and rows"),
        ("\n \n", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\nx,y\n1,z\n", "has no column of numbers: a ('x' on line 2), b ('y' on line 2)"),
        (",\n1,2\n", "has no column of numbers: column 1 (has no name), column 2 (has no name)"),
        ("a,b\n,NA\n", "has no column of numbers: a (holds nothing), b (holds nothing)"),
        ("1.5,2\n3,4\n", "holds only numbers on its first line: name the columns there"),
        ("a,b\n1,2\n3\n", "line 3 has 1 fields, the header 2"),
        ("a,b\n1,2\n\n\n3,4,5\n", "line 5 has 3 fields, the header 2"),
        ('a,b\n1,"2\n', "a quote that opens on line 2 never closes"),
        ("a,b,a\n1,2,3\n", "more than one column 'a'"),
        ("a;b\n1,5;2,5\n", "separated by ';'"),
        (b"\0" * 100, "it holds binary data"),
        (bytes(range(256)), "not text in UTF-8"),
        ("a,b\n1,é\n".encode("latin-1"), "not text in UTF-8: save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"missing": True}, {"on_bad": "skip"}])
def test_a_file_that_is_no_table_is_refused_in_one_line(
    file: Path, content: str | bytes, said: str, options: dict[str, object]
) -> None:
    if options.get("missing") and said.endswith("(holds nothing)"):
        assert np.isnan(taken(file, content, **options).x).all()
    else:
        line = refusal(file, content, **options)
        assert str(file) in line
        assert said in line


def test_a_file_that_is_not_there_or_no_file_is_refused(file: Path) -> None:
    assert "No such file" in refusal(file)
    assert "directory" in refusal(file.parent)
    assert "gzip" in refusal(file.with_suffix(".gz"), "a\n1\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"columns": ["waitin"]},
            "no column (columns=...) 'waitin'; did you mean 'waiting'? there is: eruptions",
        ),
        ({"columns": ["waiting", "waiting"]}, "columns names 'waiting' more than once"),
        ({"columns": "waiting"}, "columns is 'waiting': it must be a list of names"),
        ({"columns": []}, "columns is []"),
        ({"columns": [1]}, "columns is [1]"),
        ({"on_bad": "ignore"}, "no on_bad 'ignore'"),
    ],
)
def test_an_option_that_is_wrong_is_named(file: Path, options: dict[str, object], said: str) -> None:
    assert said in refusal(file, "eruptions,waiting\n1,2\n", **options)


def test_numbers_can_be_names_where_they_are_asked_for(file: Path) -> None:
    assert taken(file, "1990,1991\n3,4\n", columns=["1991"]).x.tolist() == [[4]]


# Writing


@pytest.mark.parametrize(
    ("x", "columns", "said"),
    [
        ([1.0, 2.0], None, "x has shape (2,)"),
        (np.zeros((0, 2)), None, "x has shape (0, 2)"),
        ([[1.0], [2.0, 3.0]], None, "x is no array of numbers"),
        ([["a"]], None, "x is no array of numbers"),
        ([[1.0, np.inf]], None, "x[0, 1] is inf"),
        ([[1.0, 2.0]], ["a"], "columns has 1 names and x 2 columns"),
        ([[1.0, 2.0]], ["a", "a"], "columns names 'a' more than once"),
        ([[1.0, 2.0]], ["a", ""], "columns holds ''"),
        ([[1.0, 2.0]], ["a", "b\n"], "columns holds 'b\\n'"),
        ([[1.0, 2.0]], ["1", "2"], "only numbers on its first line"),
        ([[1.0, 2.0]], "ab", "columns is 'ab'"),
    ],
)
def test_writing_refuses_what_reading_would(file: Path, x: object, columns: list[str] | None, said: str) -> None:
    with pytest.raises(UserError) as raised:
        write_table(file, x, columns)  # type: ignore[arg-type]
    assert said in str(raised.value)
    assert not file.exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_table(tmp_path / "no" / "table.csv", np.zeros((1, 2)))
    write_table(tmp_path / "table.csv", np.zeros((1, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_importing_the_reader_loads_nothing_heavy() -> None:
    code = "import sys, latentzoo.models.readers.table; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "pandas", "scipy"} & set(loaded)


# Real tables


def real(folder: Path, name: str) -> tuple[Path, list[dict[str, str]]]:
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no real data: {path} is missing (name another folder with LATENTZOO_DATA)")
    with path.open(newline="", encoding="utf-8") as opened:
        return path, list(csv.DictReader(opened))


def test_the_faithful_geyser(data_folder: Path) -> None:
    path, rows = real(data_folder, "faithful.csv")
    x, columns, report = read_table(path, columns=["eruptions", "waiting"])
    assert x.tolist() == [[float(row["eruptions"]), float(row["waiting"])] for row in rows]
    assert columns == ("eruptions", "waiting")
    assert str(report) == f"{path}: 272 of 272 rows read"


def test_the_irises(data_folder: Path) -> None:
    path, rows = real(data_folder, "iris.csv")
    x, columns, report = read_table(path)
    assert columns == ("Sepal.Length", "Sepal.Width", "Petal.Length", "Petal.Width")
    assert x.tolist() == [[float(row[name]) for name in columns] for row in rows]
    assert (
        str(report)
        == f"{path}: 150 of 150 rows read; columns left out: rownames (names the rows), Species ('setosa' on line 2)"
    )


def test_a_month_of_comcat_has_missing_cells(data_folder: Path) -> None:
    path, rows = real(data_folder, "comcat_2021-05.csv")
    numbers = [[float(row[name] or "nan") for name in ("nst", "dmin", "mag")] for row in rows]
    read = read_table(path, columns=["nst", "dmin", "mag"], missing=True)
    np.testing.assert_array_equal(read.x, numbers)
    kept = read_table(path, columns=["nst", "dmin", "mag"], on_bad="skip")
    assert kept.x.tolist() == [row for row in numbers if not np.isnan(row).any()]
    assert sum(map(len, kept.report.left_out.values())) == len(rows) - len(kept.x)
