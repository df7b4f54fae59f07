"""What the readers of comma-separated values share: opening a file, its header, its numbers, and what to say of them.

A file is read in chunks through pandas, as text, so that a cell that is not a number can be told from a missing one.
Rows that cannot be used are refused, or left out and reported with their reason and their line in the file.
"""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.files import atomic

MISSING = ["", "na", "n/a", "nan", "null", "none"]


@contextmanager
def one_line_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what pandas and gzip raise about a file into one line; `what` is what the file should be: "a catalogue"."""
    from pandas.errors import EmptyDataError, ParserError

    try:
        yield
    except EmptyDataError:
        raise UserError(f"{path} is empty: {what} has a header and rows") from None
    except ParserError as error:
        raise UserError(f"{path} is no table of comma-separated values: {_fault(path, error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as UTF-8 (plain, or packed as .gz)") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def open_csv(path: Path, chunk_rows: int) -> Iterator[tuple[list[str], Iterator[Any]]]:
    """Give the columns' names, and the rows as pandas' frames of text with columns 0, 1, ...

    Raises
    ------
    UserError: the header is none of comma-separated values, or no row follows it.
    """
    import pandas as pd

    # Without usecols, since with it pandas takes rows with too many fields, whose values have moved to other columns;
    # without a header, since pandas lets the first row set the number of fields and renames duplicate columns.
    packed = "gzip" if is_packed(path) else None
    with pd.read_csv(
        path, header=None, index_col=False, dtype=str, na_filter=False, compression=packed, chunksize=chunk_rows
    ) as reader:
        yield checked_header(path, list(reader.get_chunk(1).iloc[0])), _some(path, reader)


def _some(path: Path, chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the chunks; refuse a file without any."""
    num_rows = 0
    for chunk in chunks:
        num_rows += len(chunk)
        yield chunk
    if not num_rows:
        raise UserError(f"{path} has a header and no rows")


def checked_header(path: Path, cells: list[str]) -> list[str]:
    """Return the columns' names; refuse a file that is none of comma-separated values."""
    if any("\0" in cell for cell in cells):
        raise UserError(f"{path} is not text in UTF-8: it holds binary data")
    header = [" ".join(cell.split()) for cell in cells]
    for separator in ";\t|":
        if len(cells) == 1 and separator in cells[0].strip():
            raise UserError(f"{path} is separated by {separator!r}: it must be by commas, with decimal points")
    twice = [name for name, number in Counter(header).items() if name and number > 1]
    if twice:
        raise UserError(f"{path} has more than one column {twice[0]!r}: each needs a name of its own")
    return header


def place_of(path: Path, header: list[str], name: str, option: str) -> int:
    """Return the place of a column that the user named with an option.

    Raises
    ------
    UserError: there is no such column; it names the nearest one.
    """
    try:
        return header.index(choose(name, header, f"column ({option}=...)"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def numbers(cells: Any, marks: Collection[str] = MISSING) -> tuple[Float[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
    """Return a column's numbers, NaN where there is none, and where the cell is one of `marks`, in any case."""
    import pandas as pd

    missing = cells.str.strip().str.lower().isin(list(marks)).to_numpy(dtype=bool)
    return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64), missing


def first_reasons(reasons: Mapping[str, Bool[np.ndarray, "rows"]]) -> Iterator[tuple[str, Int[np.ndarray, "bad"]]]:
    """Yield each reason not to use rows, with the rows to which it is the first that applies."""
    explained: Any = False
    for reason, mask in reasons.items():
        rows = np.flatnonzero(mask & ~np.asarray(explained))
        if rows.size:
            yield reason, rows
        explained = explained | mask


def unusable_cells(
    names: list[str], values: Float[np.ndarray, "columns rows"], missing: Bool[np.ndarray, "columns rows"]
) -> dict[str, Bool[np.ndarray, "rows"]]:
    """Return the reasons that a cell which is no finite number gives not to use its row."""
    reasons = {f"{name} missing": mask for name, mask in zip(names, missing, strict=True)}
    text = np.isnan(values) & ~missing
    reasons |= {f"{name} not a number": mask for name, mask in zip(names, text, strict=True)}
    return reasons | {f"{name} not finite": np.isinf(value) for name, value in zip(names, values, strict=True)}


def check_left_out(
    path: Path, left_out: Mapping[str, tuple[int, ...]], num_rows: int, num_kept: int, on_bad: str, cure: str = ""
) -> None:
    """Raise `UserError` when rows cannot be used, unless they are to be skipped and some are kept.

    left_out: for each reason the rows' lines.
    cure: one more thing that the user can do, as a message says it.
    """
    if not left_out or (on_bad == "skip" and num_kept):
        return
    bad = f"{num_rows - num_kept} of {num_rows} rows cannot be used: {listed(left_out)}"
    advice = "leave them out with on_bad='skip' (--on-bad skip)" if num_kept else "name other columns: none is left"
    raise UserError(f"{path}: {bad}; put them right, {cure and f'{cure}, '}or {advice}")


def line_numbers(path: Path, left_out: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """Turn rows, counted from 0, into lines of the file: a second pass, which only a file with such rows needs."""
    if not left_out:
        return {}
    wanted = {row for rows in left_out.values() for row in rows}
    # Row -1 is the header.
    lines = {row: line for row, (line, _) in enumerate(records(path), start=-1) if row in wanted}
    return {reason: tuple(lines[row] for row in rows if row in lines) for reason, rows in left_out.items()}


def listed(left_out: Mapping[str, tuple[int, ...]]) -> str:
    """Count the rows of each reason, with their first lines."""
    first = {reason: ", ".join(map(str, lines[:3])) + ", ..." * (len(lines) > 3) for reason, lines in left_out.items()}
    return ", ".join(f"{len(lines)} {reason} (line {first[reason]})" for reason, lines in left_out.items())


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that pandas sees, the header first, with the line that it begins on, counted from 1."""
    limit = csv.field_size_limit(2**31 - 1)  # a quote that never closes takes in the rest of the file
    opened = gzip.open if is_packed(path) else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            reader, line = csv.reader(file), 1
            for fields in reader:
                # pandas skips lines that are empty or only white space, but a quoted nothing is a field.
                if fields and not (len(fields) == 1 and fields[0].isspace()):
                    yield line, fields
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def write_csv(path: str | PathLike[str], text: str) -> None:
    """Write a file in UTF-8 that appears whole or not at all; a name that ends in `.gz` packs it.

    Raises
    ------
    UserError: the folder does not exist or cannot be written.
    """
    content = text.encode()
    with atomic(path) as file:
        file.write(gzip.compress(content, mtime=0) if is_packed(Path(path)) else content)


def is_packed(path: Path) -> bool:
    """Return whether the file's name says that it is packed."""
    return path.suffix.lower() == ".gz"


def _fault(path: Path, error: Exception) -> str:
    """Say what pandas could not parse, with its line."""
    rows = records(path)
    line, header = next(rows)
    for line, fields in rows:
        if len(fields) > len(header):
            return f"line {line} has {len(fields)} fields, the header {len(header)} (quote a text that holds a comma)"
    if "EOF inside string" in str(error):
        return f"a quote that opens on line {line} never closes"
    return " ".join(str(error).split())
