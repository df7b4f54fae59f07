"""Tables in CSV: the columns that hold numbers, as one array.

A cell is a number as Python writes one, or missing: empty, `NA`, `NaN` (in any case of letters) or `?`.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.words import unpack
from latentzoo.models.readers.csv_file import (
    check_left_out,
    checked_header,
    first_reasons,
    line_numbers,
    listed,
    numbers,
    one_line_errors,
    open_csv,
    place_of,
    records,
    unusable_cells,
    write_csv,
)

MARKS = ["", "na", "nan", "?"]  # of a missing cell, in lower case
ROW_NAMES = ("rownames", "row.names", "Unnamed: 0")  # a first column that R or pandas wrote beside the data
CHUNK_ROWS = 100_000  # the rows that are held as text at once


@dataclass(frozen=True)
class TableReport:
    """What was read and what was left out; `str` gives it in one line.

    path: the file.
    num_rows, num_kept: the rows of the file without its header, and those in the table.
    left_out: for each reason, the lines of the rows left out, counted from 1 as an editor does.
    columns_left_out: why each column that is not in the table is left out, unless columns were asked for by name.
    """

    path: Path
    num_rows: int
    num_kept: int
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    columns_left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_kept} of {self.num_rows} rows read"]
        if self.left_out:
            parts.append(f"left out: {listed(self.left_out)}")
        if self.columns_left_out:
            parts.append(f"columns left out: {_explained(self.columns_left_out)}")
        return "; ".join(parts)


class Table(NamedTuple):
    """Rows of numbers, and the report on the file they come from.

    x: the numbers, NaN where a cell is missing.
    columns: their names.
    """

    x: Float[np.ndarray, "rows features"]
    columns: tuple[str, ...]
    report: TableReport


def read_table(
    path: str | PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    on_bad: Literal["error", "skip"] = "error",
    missing: bool = False,
) -> Table:
    """Read the numbers of a CSV file with a header, in UTF-8, or of one packed as `.gz`.

    Lines that are empty or only white space are no rows.

    columns: the columns' names, in the order wanted; without them, every column whose cells are all numbers or
        missing. Those with text, without a number or without a name (as R writes names of rows) are left out, and so
        is a first one that is called "rownames"; the report says so.
    on_bad: "error" refuses a file with cells that are no finite numbers; "skip" leaves their rows out, and the report
        says which.
    missing: read missing cells as NaN, instead of refusing or skipping their rows.

    Raises
    ------
    UserError: the file cannot be read as such a table, no row of it can be used, or an option is wrong.
    """
    choose(on_bad, ["error", "skip"], "on_bad")
    _check_columns(columns)
    path = Path(expanduser(path))  # as pandas does
    with one_line_errors(path, "a table"):
        found = _read_columns(path, columns)
        columns_left_out: dict[str, str] = {}
        if columns is None:
            found, columns_left_out = _fit(path, found, missing)
        values, rows = _usable(found, missing)
        left_out = line_numbers(path, rows)
    num_rows = len(found[0])
    lacking = any(reason.endswith(" missing") for reason in left_out)
    cure = "fill the missing cells" if lacking else ""
    check_left_out(path, left_out, num_rows, len(values), on_bad, cure)
    report = TableReport(path, num_rows, len(values), left_out, columns_left_out)
    return Table(values, tuple(column.name for column in found), report)


def names_of(data: Any, size: int = 0) -> tuple[str, ...]:
    """Return the names of the features of data that have `columns`, or so many that count: x1, x2 ..."""
    if data is None or data.columns is None:
        return tuple(f"x{index + 1}" for index in range(size))
    return unpack(data.columns)


def write_table(
    path: str | PathLike[str], x: Float[np.ndarray, "rows features"], columns: Sequence[str] | None = None
) -> None:
    """Write a table that `read_table` reads back without options, bit for bit.

    The file appears whole or not at all. NaN is written as an empty cell, which needs `missing=True` when it is read.
    A name that ends in `.gz` packs the file.

    columns: the columns' names; without them x1, x2, ...

    Raises
    ------
    UserError: the array is no table of numbers, the names do not fit, or the file cannot be written.
    """
    x = _checked_array(x)
    _check_columns(columns)
    names = [f"x{place + 1}" for place in range(x.shape[1])] if columns is None else list(columns)
    if len(names) != x.shape[1]:
        raise UserError(f"columns has {len(names)} names and x {x.shape[1]} columns: give one for each")
    for name, read in zip(names, checked_header(Path(path), names), strict=True):
        if not name or name != read:
            raise UserError(f"columns holds {name!r}: a name needs letters, with single spaces between words")
    _check_names(Path(path), names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if np.isnan(value) else value for value in row] for row in x.tolist())
    write_csv(path, text.getvalue())


@dataclass
class _Column:
    """A column as it is read, chunk by chunk: its numbers, NaN where there is none, and where cells are missing.

    text: its first cell that is neither a number nor missing, and that cell's row.
    """

    name: str
    place: int
    text: tuple[str, int] | None = None
    chunks: list[tuple[Float[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]] = field(default_factory=list)

    @property
    def value(self) -> Float[np.ndarray, "rows"]:
        return np.concatenate([value for value, _ in self.chunks])

    @property
    def is_missing(self) -> Bool[np.ndarray, "rows"]:
        return np.concatenate([missing for _, missing in self.chunks])

    def __len__(self) -> int:
        return sum(value.size for value, _ in self.chunks)

    def add(self, cells: Any, first_row: int) -> None:
        """Take in the cells of a chunk."""
        value, missing = numbers(cells, MARKS)
        self.chunks.append((value, missing))
        text = np.flatnonzero(np.isnan(value) & ~missing)
        if self.text is None and text.size:
            self.text = (cells.iloc[text[0]].strip(), first_row + int(text[0]))


def _check_columns(columns: Sequence[str] | None) -> None:
    if columns is None:
        return
    if isinstance(columns, str) or not len(columns) or not all(isinstance(name, str) for name in columns):
        raise UserError(f"columns is {columns!r}: it must be a list of names, or None")
    twice = [name for i, name in enumerate(columns) if name in columns[:i]]
    if twice:
        raise UserError(f"columns names {twice[0]!r} more than once: name each column once")


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse a header of numbers alone: it would be a row that is lost."""
    if all(_is_number(name) for name in names if name) and any(names):
        cure = "name the columns there, or say which numbers are names with columns=[...]"
        raise UserError(f"{path} holds only numbers on its first line: {cure}")


def _is_number(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False


def _read_columns(path: Path, asked: Sequence[str] | None) -> list[_Column]:
    """Return the columns asked for, or all; of those with text the rest is not read where none is asked for."""
    num_rows, ragged = 0, False
    with open_csv(path, CHUNK_ROWS) as (header, chunks):
        if asked is None:
            _check_names(path, header)
        places = range(len(header)) if asked is None else [place_of(path, header, name, "columns") for name in asked]
        columns = [_Column(header[place], place) for place in places]
        for chunk in chunks:
            for column in columns:
                if asked is not None or column.text is None:
                    column.add(chunk[column.place], num_rows)
            # pandas fills a row with too few cells up with empty ones.
            ragged |= bool((chunk[len(header) - 1] == "").any())
            num_rows += len(chunk)
    if ragged:
        check_lengths(path, len(header))
    return columns


def check_lengths(path: Path, num_columns: int) -> None:
    """Refuse a file with a row that has too few cells: a second pass, which only a row that ends empty needs."""
    for line, cells in records(path):
        if len(cells) < num_columns:
            fault = f"line {line} has {len(cells)} fields, the header {num_columns}"
            raise UserError(f"{path} is no table of comma-separated values: {fault} (an empty cell needs its comma)")


def _fit(path: Path, columns: list[_Column], missing: bool) -> tuple[list[_Column], dict[str, str]]:
    """Return the columns of numbers, and why others are none: text is more likely a label than a mistake."""
    lines = line_numbers(path, {column.name: [column.text[1]] for column in columns if column.name and column.text})
    fit, reasons = [], dict[str, str]()
    for column in columns:
        if not column.name:
            reasons[f"column {column.place + 1}"] = "has no name"
        elif column.name in ROW_NAMES and column.place == 0 and len(columns) > 1:
            reasons[column.name] = "names the rows"
        elif column.text:
            reasons[column.name] = f"{short(column.text[0])} on line {lines[column.name][0]}"
        elif column.is_missing.all() and not missing:
            reasons[column.name] = "holds nothing"
        else:
            fit.append(column)
    if not fit:
        raise UserError(f"{path} has no column of numbers: {_explained(reasons)}")
    return fit, reasons


def _usable(columns: list[_Column], missing: bool) -> tuple[Float[np.ndarray, "rows features"], dict[str, list[int]]]:
    """Return the rows that can be used, and for each reason the places of those that cannot."""
    values, is_missing = np.stack([c.value for c in columns]), np.stack([c.is_missing for c in columns])
    reasons = unusable_cells([column.name for column in columns], values, is_missing)
    if missing:
        reasons = {reason: rows for reason, rows in reasons.items() if not reason.endswith(" missing")}
    left_out = {reason: rows.tolist() for reason, rows in first_reasons(reasons)}
    keep = np.ones(values.shape[1], dtype=bool)
    keep[list(chain.from_iterable(left_out.values()))] = False
    return values[:, keep].T.copy(), left_out


def _checked_array(x: Any) -> Float[np.ndarray, "rows features"]:
    try:
        array = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"x is no array of numbers: give one of shape (rows, features) ({error})") from error
    if array.ndim != 2 or not array.size:
        raise UserError(f"x has shape {array.shape}: it must be (rows, features), with at least one of each")
    infinite = np.argwhere(np.isinf(array))
    if infinite.size:
        row, column = infinite[0].tolist()
        raise UserError(f"x[{row}, {column}] is {array[row, column]}: it must be finite, or NaN where it is missing")
    return array


def short(text: str) -> str:
    """Return what a message quotes of a cell."""
    return repr(text if len(text) <= 20 else text[:17] + "...")


def _explained(reasons: dict[str, str]) -> str:
    """List the first columns left out, each with its reason."""
    parts = [f"{name} ({reason})" for name, reason in reasons.items()]
    return ", ".join(parts[:10]) + (f" and {len(parts) - 10} more" if parts[10:] else "")
