"""Directed acyclic graphs of discrete nodes: their states, their parents, and the table of each node given those."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.errors import UserError, choose

TOLERANCE = 1e-6  # by which the probabilities of a node may miss a sum of one; they are then divided by their sum
MOST_NUMBERS = 2**20  # in the table of one node
MOST_PARENTS = 60  # arrays have at most 64 axes


class Node(NamedTuple):
    """One node as a network is built of them.

    name, states: what they are called. parents: the names of its parents. table: the probability of each state given
    the states of the parents, (*parents, states) or flat, in that order.
    """

    name: str
    states: Sequence[str]
    parents: Sequence[str]
    table: Any


@dataclass(frozen=True, repr=False)
class Network:
    """A discrete Bayesian network: p(x) = prod_i p(x_i | parents of x_i).

    name: what it is called.
    nodes: the names of its nodes, in the order of the columns of data.
    states: of each node, the names of its states; data have their places.
    parents: of each node, the names of its parents.
    tables: of each node, its probabilities in a row, as `table` gives them their shape.
    """

    name: str
    nodes: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    parents: tuple[tuple[str, ...], ...]
    tables: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        _check_names(self)
        _check_arcs(self)
        for node in self.nodes:
            _check_table(node, self)

    @classmethod
    def of(cls, name: str, nodes: Iterable[Node | tuple[Any, ...]]) -> "Network":
        """Return the network of these nodes, (name, states, parents, table) each.

        Distributions that sum to one but for `TOLERANCE` are divided by their sum.

        Raises
        ------
        UserError: names the node whose name, states, parents or table cannot be used, or a cycle.
        """
        found = [Node(*node) for node in nodes]
        sizes: dict[str, int] = {node.name: len(node.states) for node in found}
        tables = []
        for node in found:
            size = math.prod([sizes.get(each, 1) for each in (*node.parents, node.name)])
            tables.append(_normalised(node, size))
        return cls(
            name,
            tuple(node.name for node in found),
            tuple(tuple(node.states) for node in found),
            tuple(tuple(node.parents) for node in found),
            tuple(tables),
        )

    def __repr__(self) -> str:
        return f"<Network {self.name}: {len(self.nodes)} nodes, {sum(map(len, self.parents))} arcs>"

    def __str__(self) -> str:
        return self.name

    # --- its parts ---

    @functools.cached_property
    def place(self) -> Mapping[str, int]:
        """The place of each node."""
        return {node: index for index, node in enumerate(self.nodes)}

    def states_of(self, node: str) -> tuple[str, ...]:
        """Return the names of the states of a node."""
        return self.states[self.place[node]]

    def parents_of(self, node: str) -> tuple[str, ...]:
        """Return the parents of a node."""
        return self.parents[self.place[node]]

    def family(self, node: str) -> tuple[str, ...]:
        """Return the parents of a node, and the node: the axes of its table."""
        return (*self.parents_of(node), node)

    def shape(self, node: str) -> tuple[int, ...]:
        """Return the shape of the table of a node: the numbers of states of its parents, and its own."""
        return tuple(len(self.states_of(each)) for each in self.family(node))

    def table(self, node: str) -> Float[np.ndarray, "*parents states"]:
        """Return the probabilities of the states of a node given those of its parents."""
        return np.array(self.tables[self.place[node]]).reshape(self.shape(node))

    def state(self, node: str, name: str) -> int:
        """Return the place of a state among those of a node.

        Raises
        ------
        UserError: there is no such node, or it has no such state; the nearest is named.
        """
        states = self.states_of(choose(node, self.nodes, f"node of {self.name}"))
        return states.index(choose(name, states, f"state of {node}"))

    @functools.cached_property
    def order(self) -> tuple[str, ...]:
        """The nodes, each after its parents: of those whose turn it could be, the first in `nodes`."""
        return _topological(self)

    def with_tables(self, tables: Mapping[str, Any]) -> "Network":
        """Return the network with other tables, (*parents, states) by node, such as those that were fitted."""
        columns = zip(self.nodes, self.states, self.parents, strict=True)
        return Network.of(self.name, [Node(node, states, parents, tables[node]) for node, states, parents in columns])

    # --- what it says ---

    def d_separated(self, a: str | Iterable[str], b: str | Iterable[str], given: str | Iterable[str] = ()) -> bool:
        """Return whether every path between two nodes, or sets of them, is blocked by those given (Pearl, 1988).

        Then they are independent given those, whatever the tables. In the graph of their ancestors, its parents joined
        ("moralised") and its arcs without direction, the nodes given must cut the sets apart (Lauritzen et al., 1990).

        Raises
        ------
        UserError: there is no such node, or one is named twice.
        """
        left, right, cut = (self._named(each) for each in (a, b, given))
        if both := sorted(left & right | (left | right) & cut):
            raise UserError(f"node {both[0]!r} is named twice: the three sets of nodes must have none in common")
        kept = self.ancestors(left | right | cut)
        neighbours = moral(self.family(node) for node in self.nodes if node in kept)
        reached, open_ = set(left), list(left)
        while open_:
            for node in neighbours[open_.pop()] - cut - reached:
                reached.add(node)
                open_.append(node)
        return not reached & right

    def _named(self, nodes: str | Iterable[str]) -> set[str]:
        names = [nodes] if isinstance(nodes, str) else nodes
        return {choose(node, self.nodes, f"node of {self.name}") for node in names}

    def ancestors(self, nodes: Iterable[str]) -> set[str]:
        """Return these nodes with all from which an arc leads to them."""
        found, open_ = set(nodes), list(nodes)
        while open_:
            for parent in set(self.parents_of(open_.pop())) - found:
                found.add(parent)
                open_.append(parent)
        return found


def moral(cliques: Iterable[Sequence[str]]) -> dict[str, set[str]]:
    """Return the neighbours of each node in the graph in which the nodes of each of these sets are joined."""
    found: dict[str, set[str]] = {}
    for clique in cliques:
        for node in clique:
            found.setdefault(node, set()).update(clique)
    return {node: near - {node} for node, near in found.items()}


# --- what a network may be --------------------------------------------------------------------------------------------


def _check_names(network: Network) -> None:
    if not network.nodes:
        raise UserError(f"{network.name} has no node: give at least one")
    seen = set()
    for node, states in zip(network.nodes, network.states, strict=True):
        if not isinstance(node, str) or not node.strip():
            raise UserError(f"a node is called {node!r}: give it a name")
        if node in seen:
            raise UserError(f"there are two nodes {node!r}: each needs a name of its own")
        seen.add(node)
        if not states:
            raise UserError(f"node {node!r} has no states: give at least one")
        if wrong := [state for state in states if not isinstance(state, str)]:
            raise UserError(f"node {node!r} has the state {wrong[0]!r}: its states are names, give a str")
        if (twice := _repeated(states)) is not None:
            raise UserError(f"node {node!r} has the state {twice!r} twice: each needs a name of its own")


def _check_arcs(network: Network) -> None:
    for node, parents in zip(network.nodes, network.parents, strict=True):
        for parent in parents:
            if parent not in network.place:
                choose(parent, network.nodes, f"node to be a parent of {node!r}:")
        if (twice := _repeated(parents)) is not None:
            raise UserError(f"node {node!r} has the parent {twice!r} twice: name it once")
        if len(parents) > MOST_PARENTS:
            raise UserError(f"node {node!r} has {len(parents)} parents: at most {MOST_PARENTS} are possible")
        if (size := math.prod(network.shape(node))) > MOST_NUMBERS:
            many = in_words(size)
            raise UserError(f"node {node!r} has a table of {many} numbers: at most {MOST_NUMBERS:,} are possible")
    _topological(network)


def in_words(number: int) -> str:
    """Return a whole number as words: the power of ten of one that is too long to read."""
    return f"{number:,}" if number < 10**12 else f"about 10^{math.floor(math.log10(number))}"


def _repeated(names: Sequence[str]) -> str | None:
    """Return the first name that was there before."""
    seen = set[str]()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _topological(network: Network) -> tuple[str, ...]:
    """Return the nodes, each after its parents (Kahn, 1962).

    Raises
    ------
    UserError: there is a cycle, which it names.
    """
    left = {node: len(parents) for node, parents in zip(network.nodes, network.parents, strict=True)}
    children: dict[str, list[str]] = {node: [] for node in network.nodes}
    for node, parents in zip(network.nodes, network.parents, strict=True):
        for parent in parents:
            children[parent].append(node)
    order = [node for node, number in left.items() if not number]
    for node in order:
        for child in children[node]:
            left[child] -= 1
            if not left[child]:
                order.append(child)
    if len(order) < len(network.nodes):
        raise UserError(f"{network.name} has a cycle: {_cycle(network, set(network.nodes) - set(order))}")
    return tuple(order)


def _cycle(network: Network, among: set[str]) -> str:
    """Return a cycle as words: each of these nodes has a parent among them."""
    node, path = next(node for node in network.nodes if node in among), dict[str, None]()
    while node not in path:
        path[node] = None
        node = next(parent for parent in network.parents_of(node) if parent in among)
    cycle = [node, *reversed([*path][[*path].index(node) :])]
    return " -> ".join(cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]])


def _normalised(node: Node, size: int) -> tuple[float, ...]:
    """Return the numbers of a table in a row, each distribution divided by its sum where that is nearly one."""
    try:
        table = np.asarray(node.table, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"the table of node {node.name!r} is not an array of numbers") from error
    if table.size == size and node.states:
        rows = table.reshape(-1, len(node.states))
        total = rows.sum(1, keepdims=True)
        # A sum that is one but for rounding is left as it is: dividing again would move the last digits for ever.
        off = np.abs(total - 1.0)
        near = (off <= TOLERANCE) & (off > len(node.states) * np.finfo(np.float64).eps)
        table = (rows / np.where(near, total, 1.0)).reshape(-1)
    return tuple(table.tolist())


def _check_table(node: str, network: Network) -> None:
    numbers, size = network.tables[network.place[node]], math.prod(network.shape(node))
    if len(numbers) != size:
        raise UserError(f"node {node!r} has a table of {len(numbers):,} numbers: its states and parents need {size:,}")
    table = network.table(node)
    bad = ~(np.isfinite(table) & (table >= 0.0) & (table <= 1.0 + TOLERANCE))
    if bad.any():
        at = tuple(int(place) for place in np.argwhere(bad)[0])
        raise UserError(f"{_entry(node, at[:-1], network)}: {table[at]:g} is no probability, from 0 to 1")
    total = table.sum(-1)
    off = np.abs(total - 1.0) > TOLERANCE
    if off.any():
        at = tuple(int(place) for place in np.argwhere(off)[0])
        raise UserError(f"{_entry(node, at, network)}: the probabilities sum to {total[at]:.9g}, not to 1")


def _entry(node: str, at: Sequence[int], network: Network) -> str:
    """Return which distribution of a table: of the node, given the states of its parents."""
    parents = network.parents_of(node)
    given = ", ".join(f"{each}={network.states_of(each)[place]}" for each, place in zip(parents, at, strict=True))
    return f"node {node!r}{f' given {given}' if given else ''}"
