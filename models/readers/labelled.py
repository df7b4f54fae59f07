"""Tables in CSV with a column of labels: whole numbers that count classes from 0, empty where a row has none."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from latentzoo.models.language.errors import UserError
from latentzoo.models.readers.csv_file import (
    check_left_out,
    checked_header,
    first_reasons,
    one_line_errors,
    place_of,
    records,
)
from latentzoo.models.readers.table import Table, TableReport, read_table, write_table

LABEL = "label"  # the name of the column, unless the user says another
NONE = -1  # the label of a row without one
MOST_LABELS = 2**53  # from which on a float tells whole numbers no longer apart


class LabelledTable(NamedTuple):
    """Rows of numbers with their labels, and the report on the file they come from.

    x: the features. label: the class of each row, -1 where it has none; None where there is no column of labels.
    columns: the names of the features.
    """

    x: Float[np.ndarray, "rows features"]
    label: Int[np.ndarray, "rows"] | None
    columns: tuple[str, ...]
    report: TableReport


def read_labelled(
    path: str | PathLike[str],
    num_classes: int | None,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> LabelledTable:
    """Read the numbers and the labels of a CSV file, as `read_table` does those of a table.

    num_classes: the number of classes; None where any whole number from 0 is one, and a column that is called "label"
        and holds text is left out as other columns of text are.
    columns: the names of the features; without them every column of numbers but the labels.
    label: the name of the column of labels; without it "label", where there is one. No column, no labels.
    on_bad: rows with a cell that is missing or no finite number, or a label that is none, are refused or left out.

    Raises
    ------
    UserError: the file cannot be read as such a table, no row of it can be used, or an option is wrong.
    """
    path = Path(expanduser(path))
    name = _label_column(path, label)
    if name is None:
        table = read_table(path, columns=columns, on_bad=on_bad)
        return LabelledTable(table.x, None, table.columns, table.report)
    if columns is not None and name in columns:
        raise UserError(f"columns names {name!r}, which holds the labels: leave it out, or name others with label=")
    asked = None if columns is None or isinstance(columns, str) else [*columns, name]
    table = read_table(path, columns=columns if asked is None else asked, on_bad=on_bad, missing=True)
    if name not in table.columns and label is None and num_classes is None:
        table = read_table(path, columns=columns, on_bad=on_bad)
        return LabelledTable(table.x, None, table.columns, table.report)
    return _split(path, table, name, num_classes, columns is not None, on_bad)


def write_labelled(
    path: str | PathLike[str],
    x: Float[np.ndarray, "rows features"],
    label: Int[np.ndarray, "rows"] | None,
    columns: Sequence[str],
) -> None:
    """Write a table that `read_labelled` reads back without options, bit for bit; labels are its last column."""
    if LABEL in columns:
        raise UserError(f"columns has {LABEL!r}, as the column of labels is called: rename that feature")
    if label is None:
        write_table(path, x, columns)
        return
    cells = np.where(np.asarray(label) == NONE, np.nan, label)
    write_table(path, np.concatenate([x, cells[:, None]], 1), [*columns, LABEL])


def _label_column(path: Path, asked: str | None) -> str | None:
    """Return the name of the column of labels; None where there is none."""
    with one_line_errors(path, "a table"):
        first = next(records(path), None)
        header = [] if first is None else checked_header(path, first[1])
    if asked is not None and header:
        return header[place_of(path, header, asked, "label")]
    return LABEL if LABEL in header else None


def _split(path: Path, table: Table, name: str, num_classes: int | None, by_name: bool, on_bad: str) -> LabelledTable:
    """Return the features and the labels of a table that has both, without the rows that cannot be used."""
    if name not in table.columns:
        reason = table.report.columns_left_out[name]
        raise UserError(f"{path}: column {name!r} holds no labels ({reason}): number the classes from 0")
    lacking = np.isnan(table.x)
    empty = lacking.all(0) & (not by_name)
    features = [place for place, each in enumerate(table.columns) if each != name and not empty[place]]
    if not features:
        raise UserError(f"{path} has no column of numbers beside the labels in {name!r}: there are no features")
    label = table.x[:, table.columns.index(name)]
    reasons = {f"{table.columns[place]} missing": lacking[:, place] for place in features}
    is_class = (label >= 0) & (label < (num_classes or MOST_LABELS)) & (np.floor(label) == label)
    classes = f"class from 0 to {num_classes - 1}" if num_classes else "whole number from 0"
    reasons[f"{name} no {classes}"] = ~np.isnan(label) & ~is_class
    keep, report = _kept(path, table, reasons, on_bad)
    nothing = {each: "holds nothing" for place, each in enumerate(table.columns) if empty[place] and each != name}
    return LabelledTable(
        table.x[keep][:, features],
        np.where(np.isnan(label), NONE, label)[keep].astype(np.int64),
        tuple(table.columns[place] for place in features),
        replace(report, columns_left_out=report.columns_left_out | nothing),
    )


def _kept(
    path: Path, table: Table, reasons: dict[str, Bool[np.ndarray, "rows"]], on_bad: str
) -> tuple[Bool[np.ndarray, "rows"], TableReport]:
    """Return which rows of a table can be used, and the report with those that cannot."""
    keep = ~np.any(list(reasons.values()), axis=0)
    if keep.all():
        return keep, table.report
    before = table.report.left_out
    gone = {line for lines in before.values() for line in lines}
    lines = [line for line, _ in records(path)][1:]  # the first is the header
    read = [line for line in lines if line not in gone]
    now = {reason: tuple(read[row] for row in rows) for reason, rows in first_reasons(reasons)}
    left_out = before | now
    num_kept = int(keep.sum())
    check_left_out(path, left_out, table.report.num_rows, num_kept, on_bad, "fill the cells")
    return keep, replace(table.report, num_kept=num_kept, left_out=left_out)
