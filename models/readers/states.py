"""Tables of states in CSV: a row is one draw of the nodes of a network, and a cell the name of a node's state.

White space around a name does not count. A cell may be missing: empty, `NA`, `NaN` (in any case of letters) or `?`,
unless that is the name of a state of its node. A node without a column is latent: missing in every row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.graph import Network
from latentzoo.models.readers.csv_file import (
    check_left_out,
    checked_header,
    first_reasons,
    line_numbers,
    listed,
    one_line_errors,
    open_csv,
    write_csv,
)
from latentzoo.models.readers.table import MARKS, ROW_NAMES, check_lengths, short

MISSING = -1  # in place of a state
CHUNK_CELLS = 1_000_000  # the cells that are held as text at once
MOST_PAIRS = 100_000  # of names that are compared in search of a misspelling, which takes a second
_UNKNOWN = -2  # a cell that is neither a state nor missing


@dataclass(frozen=True)
class StatesReport:
    """What was read and what was left out; `str` gives it in one line.

    path: the file.
    num_rows, num_kept: the rows of the file without its header, and those that are read.
    left_out: for each reason, the lines of the rows left out, counted from 1 as an editor does.
    num_missing: the missing cells in the rows that are read, without those of latent nodes.
    latent: the nodes without a column.
    columns_left_out: the columns that are no node.
    """

    path: Path
    num_rows: int
    num_kept: int
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    num_missing: int = 0
    latent: tuple[str, ...] = ()
    columns_left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_kept} of {self.num_rows} rows read"]
        if self.left_out:
            parts.append(f"left out: {listed(self.left_out)}")
        if self.num_missing:
            parts.append(f"missing cells: {self.num_missing}")
        if self.latent:
            parts.append(f"latent, without a column: {_some(self.latent)}")
        if self.columns_left_out:
            parts.append(f"columns left out: {_some(self.columns_left_out)}")
        return "; ".join(parts)


class States(NamedTuple):
    """Rows of states, and the report on the file they come from.

    states: the place of each state among those of its node, -1 where it is missing; nodes are in the network's order.
    """

    states: Int[np.ndarray, "rows nodes"]
    report: StatesReport


def read_states(path: str | PathLike[str], network: Network, *, on_bad: Literal["error", "skip"] = "error") -> States:
    """Read the states of a network's nodes from a CSV file with a header, in UTF-8, or from one packed as `.gz`.

    Columns may come in any order, and those that are no node are left out. Lines that are empty or only white space
    are no rows.

    on_bad: "error" refuses a file with cells that are no state of their node; "skip" leaves their rows out, and the
        report says which.

    Raises
    ------
    UserError: the file cannot be read as such a table, no row of it can be used, a column is likely to be a node
        misspelled, or the option is wrong.
    """
    choose(on_bad, ["error", "skip"], "on_bad")
    _check_nodes(network)
    path = Path(expanduser(path))  # as pandas does
    with one_line_errors(path, "a table of states"):
        columns, others = _read_columns(path, network)
        reasons = {column.fault: column.states == _UNKNOWN for column in columns if column.unknown}
        bad = {reason: rows.tolist() for reason, rows in first_reasons(reasons)}
        left_out = line_numbers(path, bad)
    keep = np.ones(columns[0].states.size, dtype=bool)
    keep[list(chain.from_iterable(bad.values()))] = False
    num_kept = int(keep.sum())
    _check_bad(path, left_out, keep.size, num_kept, on_bad, [column for column in columns if column.unknown])
    states = np.full((num_kept, len(network.nodes)), MISSING, dtype=np.int64)
    for column in columns:
        states[:, network.place[column.node]] = column.states[keep]
    found = {column.node for column in columns}
    latent = tuple(node for node in network.nodes if node not in found)
    num_missing = int((states == MISSING).sum()) - num_kept * len(latent)
    return States(states, StatesReport(path, keep.size, num_kept, left_out, num_missing, latent, others))


def write_states(path: str | PathLike[str], states: Int[np.ndarray, "rows nodes"], network: Network) -> None:
    """Write a table that `read_states` reads back.

    The file appears whole or not at all. A missing cell is empty. A name that ends in `.gz` packs the file.

    states: the place of each state among those of its node, -1 where it is missing.

    Raises
    ------
    UserError: the array does not hold states of the network, a name cannot be read back, or the file cannot be written.
    """
    _check_nodes(network)
    header = checked_header(Path(path), list(network.nodes))
    columns = [_cells(node, column, network) for node, column in zip(header, _checked(states, network).T, strict=True)]
    lines = [",".join(map(_quoted, header)), *map(",".join, zip(*columns, strict=True))]
    try:
        # A line without a character would be no row.
        write_csv(path, "".join(f"{line or _quoted(line, always=True)}\n" for line in lines))
    except UnicodeEncodeError as error:
        raise UserError(f"cannot write {path}: {error.object[error.start]!r} in a name is no character") from error


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass
class _Column:
    """A node's column as it is read, chunk by chunk.

    place: where it is in the file. words: the place of each state, by its name.
    unknown: the first cells that are neither a state nor missing.
    """

    node: str
    place: int
    words: dict[str, int]
    unknown: list[str] = field(default_factory=list)
    chunks: list[Int[np.ndarray, "rows"]] = field(default_factory=list)

    @property
    def states(self) -> Int[np.ndarray, "rows"]:
        return np.concatenate(self.chunks)

    @property
    def fault(self) -> str:
        """The reason not to use rows: the words that are no state."""
        return f"{self.node} is {_either(self.unknown, 3)}, no state of it"

    def add(self, cells: Any) -> None:
        """Take in the cells of a chunk: each different one is looked up once."""
        import pandas as pd

        index, different = pd.factorize(cells)
        words = [cell.strip() for cell in different]
        places = [self._place(word) for word in words]
        self.chunks.append(np.array(places, dtype=np.int32)[index])  # half of what the result takes
        unknown = (word for word, place in zip(words, places, strict=True) if place == _UNKNOWN)
        self.unknown = list(dict.fromkeys(chain(self.unknown, unknown)))[:4]

    def _place(self, word: str) -> int:
        return self.words.get(word, MISSING if word.lower() in MARKS else _UNKNOWN)


def _read_columns(path: Path, network: Network) -> tuple[list[_Column], tuple[str, ...]]:
    """Return the columns of nodes, in the network's order, and the names of the others."""
    ragged = False
    with open_csv(path, max(CHUNK_CELLS // len(network.nodes), 1)) as (header, chunks):
        others = _others(path, header, network)
        places = {name: place for place, name in enumerate(header)}
        columns = [_Column(node, places[node], _words(node, network)) for node in network.nodes if node in places]
        for chunk in chunks:
            for column in columns:
                column.add(chunk[column.place])
            # pandas fills a row with too few cells up with empty ones.
            ragged |= bool((chunk[len(header) - 1] == "").any())
    if ragged:
        check_lengths(path, len(header))
    return columns, others


def _others(path: Path, header: list[str], network: Network) -> tuple[str, ...]:
    """Return the columns that are no node; refuse a header without a node, or with one that is likely misspelled."""
    others = {place: name for place, name in enumerate(header) if name not in network.place}
    if len(others) == len(header):
        has = _some(list(map(short, header)))
        raise UserError(f"{path} has no column of a node of {network} ({_some(network.nodes)}): it has {has}")
    latent = sorted(set(network.nodes) - set(header), key=network.place.__getitem__)
    if len(others) * len(latent) <= MOST_PAIRS:
        for place, name in others.items():
            near = [] if place == 0 and name in ROW_NAMES else get_close_matches(name, latent, n=1)
            if near:
                hint = f"did you mean {near[0]!r}? rename the column, or take it out"
                raise UserError(f"{path}: column {name!r} is no node of {network}: {hint}")
    return tuple(name or f"column {place + 1}" for place, name in others.items())


def _check_bad(
    path: Path, left_out: dict[str, tuple[int, ...]], num_rows: int, num_kept: int, on_bad: str, bad: list[_Column]
) -> None:
    """Refuse cells that are no states, unless their rows are to be skipped and some are kept."""
    allowed = [f"{_either(column.words, 10)} for {column.node}" for column in bad]
    if left_out and not num_kept:
        fault = f"none of {num_rows} rows can be used: {listed(left_out)}"
        raise UserError(f"{path}: {fault}; write {_some(allowed, 3)}")
    check_left_out(path, left_out, num_rows, num_kept, on_bad, f"with {_some(allowed, 3)}")


# --- writing ----------------------------------------------------------------------------------------------------------


def _checked(states: Any, network: Network) -> Int[np.ndarray, "rows nodes"]:
    """Return the states as an array; refuse what is none of the network."""
    try:
        array = np.asarray(states)
    except (TypeError, ValueError) as error:
        raise UserError(f"states is no array: give one of shape (rows, nodes) ({error})") from error
    width = len(network.nodes)
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise UserError(f"states has shape {array.shape}: it must be (rows, {width}), with at least one row")
    if array.dtype.kind not in "iu":
        raise UserError(f"states holds {array.dtype}: it must hold integers, the places of states")
    sizes = np.array([len(names) for names in network.states])
    wrong = np.argwhere((array < MISSING) | (array >= sizes))
    if wrong.size:
        row, place = wrong[0].tolist()
        node = f"node {network.nodes[place]!r} has states 0 to {sizes[place] - 1}"
        raise UserError(f"states[{row}, {place}] is {array[row, place]}: {node}, and {MISSING} where it is missing")
    return array.astype(np.int64)


def _cells(node: str, states: Int[np.ndarray, "rows"], network: Network) -> list[str]:
    """Return a column's cells, as a file has them."""
    if "" in _words(node, network):
        raise UserError(f"node {node!r} has a state without a name, which a table cannot tell from a missing one")
    cells = np.array([*map(_quoted, network.states_of(node)), ""], dtype=object)
    return cells[states].tolist()  # a missing one is the last


def _quoted(text: str, always: bool = False) -> str:
    """Return a text as a field; csv's writer leaves a carriage return bare before Python 3.13."""
    if always or any(mark in text for mark in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text


# --- names ------------------------------------------------------------------------------------------------------------


def _check_nodes(network: Network) -> None:
    """Refuse nodes that a header cannot name: of white space in it only single spaces between words are kept."""
    for node in network.nodes:
        if node != " ".join(node.split()) or node.startswith("\ufeff"):
            raise UserError(f"node {node!r} cannot name a column: single spaces are all that may be between words")


def _words(node: str, network: Network) -> dict[str, int]:
    """Return the place of each state of a node by its name, without the white space around it."""
    words: dict[str, int] = {}
    states = network.states_of(node)
    for place, state in enumerate(states):
        first = states[words.setdefault(state.strip(), place)]
        if first != state:
            fault = "differ in white space alone, which a table does not tell apart"
            raise UserError(f"node {node!r}: the states {first!r} and {state!r} {fault}")
    return words


def _some(names: Sequence[str], most: int = 10) -> str:
    """List the first names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _either(words: Iterable[str], most: int) -> str:
    """List the first words as they are quoted."""
    quoted = list(map(short, words))
    return " or ".join(quoted[:most]) + " or ..." * (len(quoted) > most)
