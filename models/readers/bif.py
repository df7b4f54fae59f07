"""Bayesian networks in the Interchange Format (BIF, version 0.15), as bnlearn, JavaBayes and pgmpy write them.

    network clinic {
    }
    variable asia {
      type discrete [ 2 ] { yes, no };
    }
    ...
    probability ( tub | asia ) {
      (yes) 0.05, 0.95;
      (no) 0.01, 0.99;
    }

Blocks come in any order, and so do the rows of one. `table` gives all the probabilities of a node instead, its own
state varying slowest and that of its last parent fastest; `default` stands for the rows that are left out. Names with
spaces or delimiters stand in quotes. Commas may be left out, and so may the bar before the parents (JavaBayes).
"""

import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, product
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import MOST_NUMBERS, MOST_PARENTS, Network, Node
from latentzoo.models.readers.bif_tokens import BREAKS, LONGEST, MOST_ITEMS, PLAIN, Item, Tokens, cut
from latentzoo.models.readers.csv_file import is_packed, write_csv

MOST_BYTES = 2**26  # of a file, unpacked
UNNAMED = "unknown"  # what bnlearn calls a network without a name

_UNWRITABLE = re.compile(rf'["\0\ud800-\udfff{BREAKS}]')


def read_bif(path: str | PathLike[str]) -> Network:
    """Read a network from a file in UTF-8, or one packed as `.gz`.

    Its nodes come in the order of their variable blocks. A network without a name, or called "unknown", is called as
    the file is.

    Raises
    ------
    UserError: the file cannot be read as a network; it names the line.
    """
    path = Path(expanduser(path))
    return parse_bif(_content(path), str(path))


def write_bif(network: Network, path: str | PathLike[str]) -> None:
    """Write a file that `read_bif` reads back, number for number; a name that ends in `.gz` packs it.

    The file appears whole or not at all.

    Raises
    ------
    UserError: a name holds what the format has no way to write, or the file cannot be written.
    """
    write_csv(Path(expanduser(path)), format_bif(network))


def parse_bif(text: str, source: str) -> Network:
    """Return the network that a text describes.

    source: the file it is from, which messages name, and after which a network without a name is called.

    Raises
    ------
    UserError: the text describes no network; it names the line.
    """
    if "\0" in text:
        raise UserError(f"{source} is not text in UTF-8: it holds binary data (NUL bytes)")
    if not text.strip():
        raise UserError(f"{source} is empty: a network has a variable and a probability block for each node")
    tokens = Tokens(text.replace("\r\n", "\n").replace("\r", "\n"), source)
    found = _parse(tokens)
    _check_blocks(tokens, found)
    nodes = [_node(tokens, found.blocks[name], found) for name in found.variables]
    try:
        return Network.of(found.name, nodes)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def format_bif(network: Network) -> str:
    """Return the text of a network, laid out as bnlearn does.

    Raises
    ------
    UserError: a name holds what the format has no way to write.
    """
    lines = [f"network {_written(network.name or UNNAMED)} {{", "}"]
    for node in network.nodes:
        states = [_written(state) for state in network.states_of(node)]
        kind = f"  type discrete [ {len(states)} ] {{ {', '.join(states)} }};"
        lines += [f"variable {_written(node)} {{", kind, "}"]
    for node in network.nodes:
        family = " | ".join(filter(None, [_written(node), ", ".join(map(_written, network.parents_of(node)))]))
        lines += [f"probability ( {family} ) {{", *_rows(network, node), "}"]
    return "\n".join(lines) + "\n"


# --- writing ----------------------------------------------------------------------------------------------------------


def _rows(network: Network, node: str) -> Iterator[str]:
    """Yield the rows of a table, the state of the first parent varying fastest."""
    table = network.table(node) + 0.0  # a zero has no sign
    states = [[_written(state) for state in network.states_of(parent)] for parent in network.parents_of(node)]
    for at in np.ndindex(table.shape[-2::-1]):
        place = at[::-1]
        given = ", ".join(names[index] for names, index in zip(states, place, strict=True))
        yield f"  {f'({given})' if states else 'table'} {', '.join(map(repr, table[place].tolist()))};"


def _written(name: str) -> str:
    """Return a name as it is written: in quotes where it is no plain word."""
    if not isinstance(name, str) or _UNWRITABLE.search(name) or len(name) > LONGEST - 2:
        rule = f"a name is text of at most {LONGEST - 2} characters, without quotation marks, line breaks or NUL"
        raise UserError(f"{cut(str(name))!r} cannot be written as BIF: {rule}")
    return name if PLAIN.fullmatch(name) else f'"{name}"'


# --- blocks -----------------------------------------------------------------------------------------------------------


class _Variable(NamedTuple):
    """A variable block: where it is, and the place of each state."""

    at: int
    states: dict[str, int]


class _Row(NamedTuple):
    """Probabilities: where they are, and the states of the parents for which they hold."""

    at: int
    states: list[str]
    numbers: list[float]


class _Block(NamedTuple):
    """A probability block: where it is, its rows, and what it has by the names "table" and "default"."""

    at: int
    name: str
    parents: list[str]
    rows: list[_Row]
    whole: dict[str, _Row]


class _Found(NamedTuple):
    """The blocks of a file by the names of their variables, and the name of the network."""

    name: str
    variables: dict[str, _Variable]
    blocks: dict[str, _Block]


def _parse(tokens: Tokens) -> _Found:
    """Return all the blocks of a file."""
    name, variables, blocks = None, dict[str, _Variable](), dict[str, _Block]()
    while kind := tokens.token():
        tokens.block = tokens.at
        if kind == "network":
            if name is not None:
                tokens.refuse("here is a second network block: a file holds one network")
            name = _network(tokens)
        elif kind == "variable":
            _add(tokens, variables, kind, *_variable(tokens))
        elif kind == "probability":
            block = _probability(tokens)
            _add(tokens, blocks, kind, block.name, block)
        else:
            tokens.unexpected("'network', 'variable' or 'probability'", kind)
    return _Found(name if name and name != UNNAMED else _stem(tokens.source), variables, blocks)


def _stem(source: str) -> str:
    path = Path(source)
    return (path.with_suffix("") if is_packed(path) else path).stem


def _add(tokens: Tokens, blocks: dict[str, Item], kind: str, name: str, block: Item) -> None:
    if name in blocks:
        tokens.refuse(f"here is a second {kind} block of {name!r}", tokens.block)
    blocks[name] = block


def _network(tokens: Tokens) -> str:
    name = "" if tokens.peek() == "{" else tokens.name("the name of the network")
    for _ in tokens.statements():
        pass
    return name


def _variable(tokens: Tokens) -> tuple[str, _Variable]:
    name, states = tokens.name("the name of a variable"), dict[str, int]()
    for _ in tokens.statements("type"):
        if states:
            tokens.refuse(f"variable {name!r} has a second type")
        states = _states(tokens, name)
    if not states:
        tokens.refuse(f"variable {name!r} has no type: write type discrete [ 2 ] {{ no, yes }};", tokens.block)
    return name, _Variable(tokens.block, states)


def _states(tokens: Tokens, name: str) -> dict[str, int]:
    """Return the place of each state of a variable, after the word "type"."""
    if (kind := tokens.name("'discrete'")) != "discrete":
        tokens.refuse(f"variable {name!r} has the type {cut(kind)!r}: only 'discrete' can be read")
    tokens.expect("[")
    if not re.fullmatch("[0-9]{1,9}", number := tokens.token()):
        tokens.unexpected("the number of states", number)
    tokens.expect("]")
    tokens.expect("{")
    at, states = tokens.at, tokens.names("a state", "}")
    if len(states) != int(number):
        tokens.refuse(f"variable {name!r} has {len(states)} states, but [ {number} ] says that it has {number}", at)
    tokens.expect(";")
    _check_once(tokens, f"variable {name!r}", "state", states, at)
    return {state: place for place, state in enumerate(states)}


def _probability(tokens: Tokens) -> _Block:
    tokens.expect("(")
    name, parents = tokens.name("the name of a variable"), list[str]()
    if tokens.peek() == ")":
        tokens.expect(")")
    else:
        if tokens.peek() in ("|", ","):  # JavaBayes takes both for white space, and writes neither
            tokens.token()
        parents = tokens.names("a parent", ")")
    _check_once(tokens, f"node {name!r}", "parent", parents, tokens.block)
    block = _Block(tokens.block, name, parents, [], {})
    for word in tokens.statements("table", "default", "("):
        at, states = tokens.at, tokens.names("a state", ")") if word == "(" else []
        if word in block.whole:
            tokens.refuse(f"node {name!r} has a second {word}")
        row = _Row(at, states, tokens.numbers())
        if word == "(":
            block.rows.append(row)
        else:
            block.whole[word] = row
    return block


def _check_once(tokens: Tokens, owner: str, what: str, names: Sequence[str], at: int) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name, number in Counter(names).items() if number > 1)
        tokens.refuse(f"{owner} has the {what} {twice!r} twice", at)


# --- tables -----------------------------------------------------------------------------------------------------------


def _check_blocks(tokens: Tokens, found: _Found) -> None:
    """Refuse a block without a variable, a variable without a block, and tables that are too large to be made."""
    numbers = 0
    for block in found.blocks.values():
        tokens.choose(block.name, found.variables, "variable", block.at)
        for parent in block.parents:
            tokens.choose(parent, found.variables, f"variable to be a parent of {block.name!r}:", block.at)
        numbers += _size(tokens, block, found)
        if numbers > MOST_ITEMS:
            tokens.refuse(f"the tables up to that of {block.name!r} need more than {MOST_ITEMS:,} numbers", block.at)
    for name, variable in found.variables.items():
        if name not in found.blocks:
            tokens.refuse(f"variable {name!r} has no probability block", variable.at)


def _size(tokens: Tokens, block: _Block, found: _Found) -> int:
    """Return how many numbers a table needs."""
    if len(block.parents) > MOST_PARENTS:
        many = f"node {block.name!r} has {len(block.parents):,} parents"
        tokens.refuse(f"{many}: at most {MOST_PARENTS} are possible", block.at)
    size = 1
    for name in (block.name, *block.parents):
        size *= len(found.variables[name].states)
        if size > MOST_NUMBERS:
            needs = f"node {block.name!r} with {len(block.parents):,} parents needs a table of more numbers"
            tokens.refuse(f"{needs} than {MOST_NUMBERS:,}, the most that is possible", block.at)
    return size


def _node(tokens: Tokens, block: _Block, found: _Found) -> Node:
    return Node(block.name, list(found.variables[block.name].states), block.parents, _table(tokens, block, found))


def _table(tokens: Tokens, block: _Block, found: _Found) -> list[list[float]]:
    """Return the distributions of a node by the states of its parents, that of the last varying fastest."""
    num_states = len(found.variables[block.name].states)
    parents = [list(found.variables[parent].states) for parent in block.parents]
    num_rows = math.prod(map(len, parents))
    table, default = block.whole.get("table"), block.whole.get("default")
    if table:
        if block.rows or default:
            tokens.refuse(f"node {block.name!r} has a table and more: leave out the rows and the default", table.at)
        _check_numbers(tokens, block, "table", table, num_rows * num_states)
        return [table.numbers[row::num_rows] for row in range(num_rows)]
    rows = _rows_by_place(tokens, block, found)
    if default:
        _check_numbers(tokens, block, "default", default, num_states)
        return [rows.get(place, default.numbers) for place in range(num_rows)]
    if len(rows) < num_rows:
        first = next(place for place in range(num_rows) if place not in rows)
        lacks = f"lacks {num_rows - len(rows):,} of its {num_rows:,} rows, the first"
        missing = f"{lacks} {_shown(next(islice(product(*parents), first, None)))}" if parents else "has no table"
        tokens.refuse(f"node {block.name!r} {missing}", block.at)
    return [rows[place] for place in range(num_rows)]


def _rows_by_place(tokens: Tokens, block: _Block, found: _Found) -> dict[int, list[float]]:
    """Return the rows that are given, by their places in the table."""
    rows = dict[int, list[float]]()
    for row in block.rows:
        place = _place(tokens, block, row, found)
        _check_numbers(tokens, block, f"row {_shown(row.states)}", row, len(found.variables[block.name].states))
        if place in rows:
            tokens.refuse(f"node {block.name!r} has the row {_shown(row.states)} twice", row.at)
        rows[place] = row.numbers
    return rows


def _place(tokens: Tokens, block: _Block, row: _Row, found: _Found) -> int:
    """Return the place of a row in the table."""
    if len(row.states) != len(block.parents):
        fault = f"the row {_shown(row.states)} names {len(row.states)} states"
        tokens.refuse(f"{fault}: node {block.name!r} has {len(block.parents)} parents", row.at)
    place = 0
    for state, parent in zip(row.states, block.parents, strict=True):
        states = found.variables[parent].states
        tokens.choose(state, states, f"state of {parent!r}:", row.at)
        place = place * len(states) + states[state]
    return place


def _check_numbers(tokens: Tokens, block: _Block, what: str, row: _Row, number: int) -> None:
    if len(row.numbers) != number:
        fault = f"the {what} of node {block.name!r} has {len(row.numbers):,} probabilities"
        tokens.refuse(f"{fault}: its states and parents need {number:,}", row.at)


def _shown(states: Sequence[str]) -> str:
    """Return the states of a row as words."""
    return f"({', '.join(states if len(states) <= 20 else [*states[:19], '...'])})"


# --- files ------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> str:
    """Return the text of a file."""
    try:
        with (gzip.open if is_packed(path) else open)(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} holds more than {MOST_BYTES >> 20} MiB: that is too much for a network")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not text in UTF-8: line {line} is not; save it as UTF-8") from None
