"""Exact inference in discrete Bayesian networks by eliminating one node after another, for many rows at once.

The joint density is a product of tables, one for each family. Eliminating node v multiplies all that holds it, which
leaves a table over v and its neighbours s, and sums v out. With phi_v that product, in logarithms,

    (1)  m_v(s) = log sum_v exp phi_v(v, s)              goes where the first of s is eliminated, as one more factor
    (2)  log p(evidence) = sum of m_v over those with an empty s
    (3)  p(v | s, evidence) = exp(phi_v - m_v)
    (4)  p(v, s | evidence) = p(v | s, evidence) p(s | evidence),  p(s | evidence) a marginal of the table m_v went to

so that one pass up and one down give all marginals, without a division (Dechter, 1999; Koller & Friedman, 2009, ch. 9
and 10). With max in the place of the sum, (1) has the probability of the most probable states, found on the way down.
Evidence on a node that all rows have is taken out of the tables; on others it is a factor, 0 or -inf for each state.
"""

import functools
import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.inference.arrays import add_at, namespace
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network, in_words, moral

MOST_NUMBERS = 2**25  # in all tables of one row
CHUNK_NUMBERS = 2**22  # in all tables of the rows that are visited at once

Array = Any
Tables = Mapping[str, Array]  # log p(node | parents), (*parents, states)


class Step(NamedTuple):
    """The elimination of one node.

    scope: the node, and those of its neighbours that are still there: the axes of its table.
    families: the nodes whose own tables are multiplied here. inputs: the steps whose results are.
    output: the step that its result goes to; None where nothing is left to go with.
    """

    scope: tuple[str, ...]
    families: tuple[str, ...]
    inputs: tuple[int, ...]
    output: int | None


class Plan(NamedTuple):
    """How the nodes of a network that are not known are eliminated.

    known: the nodes whose state every row has. turn: the step at which each other node is eliminated. families: that at
    which the table of each node is multiplied; None where its whole family is known. size: the numbers in all tables of
    a row.
    """

    network: Network
    known: frozenset[str]
    steps: tuple[Step, ...]
    turn: dict[str, int]
    families: dict[str, int | None]
    size: int

    def unknown(self, node: str) -> tuple[str, ...]:
        """Return the members of the family of a node that are not known."""
        return tuple(each for each in self.network.family(node) if each not in self.known)


# --- the order --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def plan(network: Network, known: frozenset[str]) -> Plan:
    """Return how a network is eliminated where these nodes are known; those with a single state always are.

    Raises
    ------
    UserError: its tables would be too large; none has been made.
    """
    known |= {node for node in network.nodes if len(network.states_of(node)) == 1}
    families = {node: tuple(each for each in network.family(node) if each not in known) for node in network.nodes}
    scopes = _scopes(network, moral(families.values()))
    turn = {scope[0]: number for number, scope in enumerate(scopes)}
    output = [min((turn[node] for node in scope[1:]), default=None) for scope in scopes]
    home = {node: min((turn[each] for each in family), default=None) for node, family in families.items()}
    steps = tuple(
        Step(
            scope,
            families=tuple(node for node, at in home.items() if at == number),
            inputs=tuple(source for source, target in enumerate(output) if target == number),
            output=output[number],
        )
        for number, scope in enumerate(scopes)
    )
    sizes = [math.prod(len(network.states_of(node)) for node in scope) for scope in scopes]
    return Plan(network, known, steps, turn, home, sum(sizes))


def _scopes(network: Network, neighbours: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Return the nodes in the order of their elimination, each with its neighbours by then.

    Each time the node is taken whose elimination joins the fewest pairs of its neighbours ("min-fill"); of several the
    one with the smallest table, of these the first.
    """
    size = {node: len(network.states_of(node)) for node in neighbours}
    fill = {node: sum(len(near - neighbours[u]) - 1 for u in near) // 2 for node, near in neighbours.items()}

    def rank(node: str) -> tuple[int, int, int, str]:
        table = math.prod(size[each] for each in neighbours[node]) * size[node]
        return fill[node], min(table, MOST_NUMBERS + 1), network.place[node], node

    heap, scopes, total = [rank(node) for node in neighbours], list[tuple[str, ...]](), 0
    heapq.heapify(heap)
    while heap:
        key = heapq.heappop(heap)
        node = key[-1]
        if node not in neighbours or key != rank(node):
            continue
        near = neighbours[node]
        total += (table := math.prod(size[each] for each in near) * size[node])
        if total > MOST_NUMBERS:
            raise _too_wide(network, node, len(near), table)
        scopes.append((node, *sorted(near, key=network.place.__getitem__)))
        for each in _eliminate(node, neighbours, fill):
            heapq.heappush(heap, rank(each))
    return scopes


def _eliminate(node: str, neighbours: dict[str, set[str]], fill: dict[str, int]) -> set[str]:
    """Take a node out of the graph and join its neighbours; return the nodes whose rank may have changed."""
    near = neighbours.pop(node)
    for each in near:
        neighbours[each].discard(node)
        fill[each] -= len(neighbours[each] - near)  # pairs of the node and one that it did not know
    touched = set(near)
    for a in near:
        for b in near - neighbours[a] - {a}:
            common = neighbours[a] & neighbours[b]
            for each in common:
                fill[each] -= 1
            fill[a] += len(neighbours[a] - neighbours[b])
            fill[b] += len(neighbours[b] - neighbours[a])
            neighbours[a].add(b)
            neighbours[b].add(a)
            touched |= common
    return touched


def _too_wide(network: Network, node: str, num_neighbours: int, table: int) -> UserError:
    """Return the error of a network whose tables would not fit."""
    return UserError(
        f"{network.name} is too wide for exact inference: its tables would hold more than {MOST_NUMBERS:,} numbers,"
        f" that of node {node!r} with {num_neighbours} others {in_words(table)}; give evidence on more nodes, or"
        " simulate rows"
    )


# --- up and down ------------------------------------------------------------------------------------------------------


class Upward(NamedTuple):
    """What the way up leaves: log p(evidence) of each row (2), and at each step, for each row, what the way down needs.

    Of sums that is (3), of maxima the best state of the node given its neighbours.
    """

    log_evidence: Float[Array, "rows"]
    given: tuple[Array, ...]


# phi of a step, the node on axis 1 -> (m, what the way down needs)
Eliminate = Callable[[Array], tuple[Array, Array]]


def summed(phi: Array) -> tuple[Array, Array]:
    """Return (1) and (3), the node on axis 1; where nothing is possible, -inf and 0."""
    xp = namespace(phi)
    most = phi.max(1, keepdims=True)
    most = xp.where(most == -xp.inf, 0.0, most)
    each = xp.exp(phi - most)
    total = each.sum(1, keepdims=True)
    impossible = total == 0.0
    total = xp.where(impossible, 1.0, total)
    message = xp.where(impossible, -xp.inf, most + xp.log(total))
    return message[:, 0], each / total


def maximised(phi: Array) -> tuple[Array, Array]:
    """Return the largest log probability over the node, on axis 1, and the state that has it."""
    return phi.max(1), phi.argmax(1)


def upward(plan: Plan, tables: Tables, states: Int[Array, "rows nodes"], eliminate: Eliminate) -> Upward:
    """Eliminate all nodes that are not known; where a state is missing it is -1."""
    messages: list[tuple[Array, tuple[str, ...]]] = []
    given, evidence = [], _known_part(plan, tables, states)
    for step in plan.steps:
        node = step.scope[0]
        parts = [(_sliced(plan, tables[each], each, states), plan.unknown(each)) for each in step.families]
        parts += [messages[number] for number in step.inputs]
        if (seen := _indicator(plan, node, states)) is not None:
            parts.append((seen, (node,)))
        message, rest = eliminate(sum(_aligned(array, axes, step.scope) for array, axes in parts))
        messages.append((message, step.scope[1:]))
        given.append(rest)
        if step.output is None:
            evidence = evidence + message
    return Upward(evidence, tuple(given))


def _known_part(plan: Plan, tables: Tables, states: Int[Array, "rows nodes"]) -> Float[Array, "rows"]:
    """Return the log probability of the families that are known as a whole."""
    total = namespace(states).zeros(len(states))
    for node, step in plan.families.items():
        if step is None:
            total = total + _sliced(plan, tables[node], node, states)
    return total


def _sliced(plan: Plan, table: Array, node: str, states: Int[Array, "rows nodes"]) -> Array:
    """Return the part of a table that each row's known states leave, (rows, *unknown); (1, *unknown) of all alike."""
    known = _known_index(plan, node, states)
    return namespace(table).transpose(table, _known_first(plan, node))[known] if known else table[None]


def _known_first(plan: Plan, node: str) -> list[int]:
    """Return the axes of the table of a node, those of known nodes first."""
    family = plan.network.family(node)
    return sorted(range(len(family)), key=lambda axis: family[axis] not in plan.known)


def _known_index(plan: Plan, node: str, states: Int[Array, "rows nodes"]) -> tuple[Array, ...]:
    """Return the states of the known members of a family, for each row."""
    known = [each for each in plan.network.family(node) if each in plan.known]
    return tuple(_column(plan.network, each, states) for each in known)


def _column(network: Network, node: str, states: Int[Array, "rows nodes"]) -> Int[Array, "rows"]:
    """Return the states of a node, also where they are missing if it has only one."""
    column = states[:, network.place[node]]
    return 0 * column if len(network.states_of(node)) == 1 else column


def _indicator(plan: Plan, node: str, states: Int[Array, "rows nodes"]) -> Float[Array, "rows states"] | None:
    """Return the evidence on a node that some rows know: 0 for a state that a row may have, else -inf."""
    xp, column = namespace(states), states[:, plan.network.place[node]]
    if xp is np and (column < 0).all():
        return None
    size = len(plan.network.states_of(node))
    possible = (column[:, None] < 0) | (column[:, None] == xp.arange(size))
    return xp.where(possible, 0.0, -xp.inf)


def _aligned(array: Array, axes: tuple[str, ...], scope: tuple[str, ...]) -> Array:
    """Return (rows, *axes) with its axes in the order of a scope, and axes of one for what it does not have."""
    order = [node for node in scope if node in axes]
    moved = namespace(array).transpose(array, (0, *(1 + axes.index(node) for node in order)))
    sizes = iter(moved.shape[1:])
    return moved.reshape((moved.shape[0], *(next(sizes) if node in axes else 1 for node in scope)))


def beliefs(plan: Plan, found: Upward) -> list[Array]:
    """Return (4), the probabilities of the table of each step given the evidence, (rows, *scope)."""
    tables: list[Array] = [None] * len(plan.steps)
    for number in reversed(range(len(plan.steps))):
        step, conditional = plan.steps[number], found.given[number]
        if step.output is None:
            tables[number] = conditional
        else:
            outer = _marginal(tables[step.output], plan.steps[step.output].scope, step.scope[1:])
            tables[number] = conditional * outer[:, None]
    return tables


def _marginal(table: Array, scope: tuple[str, ...], wanted: tuple[str, ...]) -> Array:
    """Return a marginal of (rows, *scope): (rows, *wanted)."""
    left = [node for node in scope if node in wanted]
    summed_out = table.sum(tuple(1 + axis for axis, node in enumerate(scope) if node not in wanted))
    return namespace(table).transpose(summed_out, (0, *(1 + left.index(node) for node in wanted)))


def family_marginals(plan: Plan, tables: list[Array], node: str) -> Array:
    """Return the probabilities of the unknown members of the family of a node, (rows, *unknown), from all beliefs.

    Where none is unknown, 1.
    """
    step = plan.families[node]
    if step is None:
        return np.ones(1)
    return _marginal(tables[step], plan.steps[step].scope, plan.unknown(node))


def node_marginals(
    plan: Plan, tables: list[Array], node: str, states: Int[Array, "rows nodes"]
) -> Float[Array, "rows states"]:
    """Return the probabilities of the states of a node, from all beliefs; of a known one those of its state."""
    if node not in plan.known:
        step = plan.turn[node]
        return _marginal(tables[step], plan.steps[step].scope, (node,))
    size = len(plan.network.states_of(node))
    return (_column(plan.network, node, states)[:, None] == np.arange(size)).astype(float)


def added(plan: Plan, node: str, states: Int[Array, "rows nodes"], values: Array, like: Array) -> Array:
    """Return a table like that of a node with values, (rows, *unknown), added up at the known states of the rows."""
    xp, order = namespace(like), _known_first(plan, node)
    turned = xp.transpose(like, order)
    known = _known_index(plan, node, states)
    sums = add_at(turned, known, values) if known else values.sum(0)
    return xp.transpose(sums, np.argsort(order))


def most_probable(plan: Plan, found: Upward, states: Int[np.ndarray, "rows nodes"]) -> Int[np.ndarray, "rows nodes"]:
    """Return the states of each row, those that are missing the most probable together, from maxima on the way up."""
    filled, rows = states.copy(), np.arange(len(states))
    for node in plan.known:
        filled[:, plan.network.place[node]] = _column(plan.network, node, states)
    for step, best in zip(reversed(plan.steps), reversed(found.given), strict=True):
        place, *others = (plan.network.place[each] for each in step.scope)
        all_rows = np.broadcast_to(best, (len(states), *best.shape[1:]))
        filled[:, place] = all_rows[(rows, *(filled[:, other] for other in others))]
    return filled


# --- many rows --------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Some distinct rows, and how they are eliminated.

    states: of each. count: how many rows of the data each stands for. rows, which: the rows of the data that these
    are, and which of them each is.
    """

    plan: Plan
    states: Int[Array, "distinct nodes"]
    count: Float[Array, "distinct"]
    rows: Int[Array, "rows"]
    which: Int[Array, "rows"]


def visit(network: Network, states: Int[Array, "rows nodes"]) -> Iterator[Rows]:
    """Yield the rows in groups that are eliminated alike, each row once: those without a missing state, and the rest.

    Arrays that JAX traces are one group in which every node may be missing.

    Raises
    ------
    UserError: the network is too wide for the rows with missing states.
    """
    xp = namespace(states)
    if xp is not np:
        rows = xp.arange(len(states))
        yield Rows(plan(network, frozenset()), states, xp.ones(len(states)), rows, rows)
        return
    missing = states < 0
    some = missing.any(1)
    for group in (np.flatnonzero(~some), np.flatnonzero(some)):
        if not group.size:
            continue
        never = ~missing[group].any(0)
        how = plan(network, frozenset(node for node, known in zip(network.nodes, never, strict=True) if known))
        _, first, which, count = np.unique(
            _codes(network, states[group]), return_index=True, return_inverse=True, return_counts=True
        )
        length = max(CHUNK_NUMBERS // max(how.size, 1), 1)
        for start in range(0, len(first), length):
            here = slice(start, start + length)
            mine = (which >= start) & (which < start + length)
            distinct = states[group[first[here]]]
            yield Rows(how, distinct, count[here].astype(float), group[mine], which[mine] - start)


def _codes(network: Network, states: Int[np.ndarray, "rows nodes"]) -> np.ndarray:
    """Return one thing for each row by which equal rows are found: a number where there are few enough, else bytes."""
    sizes = [1 + len(each) for each in network.states]
    if math.prod(sizes) < 2**63:
        return np.ravel_multi_index(tuple(states.T + 1), sizes)
    packed = np.ascontiguousarray(states)
    return packed.view(np.dtype((np.void, packed.shape[1] * packed.itemsize)))[:, 0]
