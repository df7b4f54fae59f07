"""Exact inference in discrete Bayesian networks: against both libraries and pgmpy, the seconds of a query, and EM."""

import importlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks.report import mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference import fit as fitting
from latentzoo.inference.automatic import backend
from latentzoo.inference.elimination import plan
from latentzoo.inference.queries import Query
from latentzoo.inference.registry import Entry, get
from latentzoo.inference.stopwatch import Stopwatch
from latentzoo.models.language import contract
from latentzoo.models.language.errors import Note
from latentzoo.models.language.graph import Network, Node
from latentzoo.models.language.ppl import LIBRARIES, Library
from latentzoo.models.readers.networks import asia, six_nodes

SUITE = "exact inference in Bayesian networks: against the libraries and pgmpy, seconds a query, EM with missing states"
TOLERANCE = 1e-10  # between two answers; of EM, as a part of the log likelihood
WELL_UNDER_A_SECOND = 0.25
NUM_SEEN = 3  # nodes of the evidence
NUM_LATER = {True: 20, False: 200}  # queries whose median is taken; quick or not
NUM_ROWS = 10_000  # for EM
PART_MISSING = 1 / 3
NEAR = 6  # the parents of a node are among so many before it, so that no random network is too wide
MOST_IN_NUMPYRO = 24  # enumerated sites: arrays have an axis for each, and NumPyro counts 25 with that of the plate

ENTRY, PGMPY, HAND = "bayesian_network", "pgmpy", "by hand"
SIZE, FIRST, LATER = "numbers in all tables", "time of the first query", "time of a later query"  # quantities
EVIDENCE, MARGINAL, BEST = "log evidence", "worst marginal", "log probability of the most probable states"
QUERY, ABSENT = "time of a query", "no answer"
EM_DATA = "asia, rows for EM"


# --- the networks -----------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """The size of a well-known network: its nodes, the most parents of one, and its arcs."""

    nodes: int
    parents: int
    arcs: int


# INSURANCE (Binder et al., 1997) and ALARM (Beinlich et al., 1989).
SIZES = {"like INSURANCE": Size(27, 3, 52), "like ALARM": Size(37, 4, 46)}


class Question(NamedTuple):
    """A network, and evidence on some of its nodes."""

    network: Network
    evidence: Mapping[str, str]

    @property
    def zoo(self) -> Entry:
        """The entry with this network."""
        return get(ENTRY, network=self.network)


def questions(seed: int) -> dict[str, Question]:
    """Return what is asked of each network, by its name."""
    rng = np.random.default_rng(seed)
    networks = [six_nodes(), asia(), *(random_network(name, size, rng) for name, size in SIZES.items())]
    return {network.name: Question(network, drawn(network, rng)) for network in networks}


def random_network(name: str, size: Size, rng: np.random.Generator) -> Network:
    """Return a network of this size, its nodes of 2 to 4 states, with random arcs and tables."""
    near = [(parent, child) for child in range(size.nodes) for parent in range(max(0, child - NEAR), child)]
    parents: list[list[int]] = [[] for _ in range(size.nodes)]
    for parent, child in rng.permutation(near):
        if len(parents[child]) < size.parents and sum(map(len, parents)) < size.arcs:
            parents[child].append(int(parent))
    sizes = rng.integers(2, 5, size.nodes)
    nodes = []
    for child, above in enumerate(parents):
        states, probs = range(sizes[child]), rng.dirichlet(np.ones(sizes[child]), tuple(sizes[above]))
        nodes.append(Node(f"x{child}", [str(state) for state in states], [f"x{parent}" for parent in above], probs))
    return Network.of(name, nodes)


def drawn(network: Network, rng: np.random.Generator) -> dict[str, str]:
    """Return evidence on a few nodes from a row that is drawn from the network, so that it is possible."""
    row: dict[str, int] = {}
    for node in network.order:
        probs = network.table(node)[tuple(row[parent] for parent in network.parents_of(node))]
        row[node] = int(rng.choice(len(probs), p=probs))
    seen = rng.permutation(network.nodes)[:NUM_SEEN].tolist()
    return {node: network.states_of(node)[row[node]] for node in seen}


# --- units ------------------------------------------------------------------------------------------------------------


def units(context: Context) -> Iterator[Unit]:
    """Yield, for each network, a unit for the answer by hand and one for each peer's; and one for EM."""
    for name, question in questions(context.seed).items():
        yield Unit(f"{name} {HAND}", partial(_by_hand, question, context))
        for library in LIBRARIES:
            yield Unit(f"{name} by {library}", partial(_by_library, question, library))
        yield Unit(f"{name} by {PGMPY}", partial(_by_pgmpy, question))
    yield Unit("EM", partial(_learnt, context))


def _row(question: Question, library: str) -> "partial[Row]":
    return partial(Row, "queries", entry=ENTRY, data=question.network.name, library=library)


def _by_hand(question: Question, context: Context) -> Iterator[Row]:
    """Yield how large the tables are, the log evidence, and the seconds of queries in a fresh process."""
    network, row = question.network, _row(question, HAND)
    seen = ", ".join(f"{node}={state}" for node, state in question.evidence.items())
    shape = f"{len(network.nodes)} nodes, {sum(map(len, network.parents))} arcs"
    yield row(SIZE, value=plan(network, frozenset(question.evidence)).size, note=shape)
    yield row(EVIDENCE, value=question.zoo.query(evidence=question.evidence).log_evidence, unit="nats", note=seen)
    num_later = NUM_LATER[context.quick]
    first, later = _in_fresh_process(network.name, context.seed, num_later)
    most, note = WELL_UNDER_A_SECOND, f"median of {num_later}"
    yield row(FIRST, value=first, unit="s", note="in a fresh process, after the import")
    yield row(LATER, value=later, unit="s", reference=most, ok=later <= most, note=note)


def _by_library(question: Question, library: Library) -> Iterator[Row]:
    """Yield how far the library's enumeration of the model is from the answer by hand, and what it takes."""
    row = _row(question, library)
    if library == "numpyro" and len(question.network.nodes) > MOST_IN_NUMPYRO:
        yield row(ABSENT, note=f"NumPyro has axes for {MOST_IN_NUMPYRO} enumerated sites, and this has more nodes")
        return
    zoo, evidence = question.zoo, question.evidence
    hand = zoo.query(evidence=evidence)
    backend(library)  # is imported, off the clock
    with Stopwatch() as watch:
        peer = zoo.query(evidence=evidence, library=library)
    note = f"{watch.compiling:.3g} s of it to compile, at each query" if library == "numpyro" else ""
    yield from _compared(row, hand, peer.log_evidence, peer.marginals, peer.map)
    yield row(QUERY, value=watch.running + watch.compiling, unit="s", note=note)


def _compared(
    row: "partial[Row]",
    hand: Query,
    log_evidence: float,
    marginals: Mapping[str, Mapping[str, float]],
    best: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Yield a claim for each part of a peer's answer: that it is the one by hand."""
    yield _claim(partial(row, EVIDENCE, unit="nats"), hand.log_evidence, log_evidence)
    each = [(node, state) for node, probs in marginals.items() for state in probs]
    gaps = [abs(hand.marginals[node][state] - marginals[node][state]) for node, state in each]
    node, state = each[int(np.argmax(gaps))]  # of a NaN, too
    where = f"{node}={state}, the worst of {len(each)}"
    yield _claim(partial(row, MARGINAL, note=where), hand.marginals[node][state], marginals[node][state])
    if best is not None:
        ours, theirs = (log_probability(hand.network, states) for states in (hand.map, best))
        note = "the same states" if dict(best) == dict(hand.map) else "other states, which are as probable"
        yield _claim(partial(row, BEST, unit="nats", note=note), ours, theirs)


def _claim(row: "partial[Row]", value: float, reference: float) -> Row:
    error = abs(value - reference)
    return row(value=value, reference=reference, error=error, tolerance=TOLERANCE, ok=bool(error <= TOLERANCE))


def log_probability(network: Network, states: Mapping[str, str]) -> float:
    """Return the log probability of a state of every node: the product of its entries in the tables."""
    at = {node: network.state(node, state) for node, state in states.items()}
    entries = [network.table(node)[tuple(at[each] for each in network.family(node))] for node in network.nodes]
    return float(np.log(entries).sum())


# --- a third party ----------------------------------------------------------------------------------------------------


def _by_pgmpy(question: Question) -> Iterator[Row]:
    """Yield how far pgmpy's variable elimination is from the answer by hand, and what it takes.

    It is not asked for the most probable states: it would make a table of all nodes at once.
    """
    row, network, evidence = _row(question, PGMPY), question.network, dict(question.evidence)
    if find_spec(PGMPY) is None:
        yield row(ABSENT, note="pgmpy is not installed: pip install pgmpy")
        return
    ask = partial(_elimination(network).query, show_progress=False)
    start = time.perf_counter()
    marginals = {node: _factor(ask([node], evidence=evidence)) for node in network.nodes if node not in evidence}
    seconds = time.perf_counter() - start
    log_evidence = float(np.log(ask(list(evidence)).get_value(**evidence)))
    yield from _compared(row, question.zoo.query(evidence=evidence), log_evidence, marginals)
    yield row(QUERY, value=seconds, unit="s", note=f"{len(marginals)} queries, of a node each")


def _elimination(network: Network) -> Any:
    """Return pgmpy's variable elimination of a network."""
    models, factors, inference = (
        importlib.import_module(f"pgmpy.{name}") for name in ("models", "factors.discrete", "inference")
    )
    kind = getattr(models, "DiscreteBayesianNetwork", None) or models.BayesianNetwork  # its name before 1.0
    peer = kind()
    peer.add_nodes_from(network.nodes)
    peer.add_edges_from([(parent, node) for node in network.nodes for parent in network.parents_of(node)])
    for node in network.nodes:
        *parents, own = network.shape(node)
        values = np.moveaxis(network.table(node), -1, 0).reshape(own, -1)
        names = {each: list(network.states_of(each)) for each in network.family(node)}
        peer.add_cpds(factors.TabularCPD(node, own, values, list(network.parents_of(node)), parents, names))
    return inference.VariableElimination(peer)


def _factor(found: Any) -> dict[str, float]:
    """Return a factor of pgmpy over one node as probabilities by state."""
    (node,) = found.variables
    return dict(zip(found.state_names[node], found.values.tolist(), strict=True))


# --- EM ---------------------------------------------------------------------------------------------------------------


def _learnt(context: Context) -> Iterator[Row]:
    """Yield what EM takes for rows of asia with missing states, that it climbs, and where it ends on complete rows."""
    zoo = get(ENTRY, network="asia")
    row = partial(Row, "queries", entry=ENTRY, data=EM_DATA, library=HAND)
    rows, _ = zoo.simulate(context.seed, NUM_ROWS, library="pyro")  # which has nothing to compile
    fit = _fit(zoo, contract.with_holes(rows, PART_MISSING, np.random.default_rng(context.seed)), "em")
    note = f"{NUM_ROWS:,} rows, a third of the cells missing"
    yield row("steps of EM", value=fit.num_steps, ok=fit.converged, note=fit.reason)
    yield row("time per step", value=fit.seconds / fit.num_steps, unit="s", note=note)
    fall = max(0.0, float(-np.diff(fit.elbo_trace).min())) / abs(fit.elbo)
    note = "as a part of it; no step lowers it"
    ok = bool(fall <= TOLERANCE)
    yield row("largest fall of the log likelihood", value=fall, error=fall, tolerance=TOLERANCE, ok=ok, note=note)
    one, other = (_fit(zoo, rows, method).elbo for method in ("em", "mle"))
    error = abs(one - other) / abs(other)
    note = "of complete rows: EM against the shares of their counts; the error is a part of it"
    of = partial(row, "log likelihood by em and by mle", unit="nats", note=note)
    yield of(value=one, reference=other, error=error, tolerance=TOLERANCE, ok=bool(error <= TOLERANCE))


def _fit(zoo: Entry, data: Any, method: str) -> Any:
    """Fit; whether it converged is a row, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        return fitting.fit(zoo, data, method, progress=False)


# --- the report -------------------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return a table of the networks, one of the answers that are compared, and one of EM."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row.data, row.library), {})[row.quantity] = row
    learnt = groups.pop((EM_DATA, HAND), {})
    by_hand = [_hand_line(name, found) for (name, library), found in groups.items() if library == HAND]
    peers = [_peer_line(name, peer, found) for (name, peer), found in groups.items() if peer != HAND]
    return "\n\n".join(
        [
            "Variable elimination by hand against the enumeration of the model itself by both libraries, and against"
            f" pgmpy. Each network is asked once, with evidence on {NUM_SEEN} nodes of a row that was drawn from it;"
            " those called like others are random ones of their size.",
            table(
                ("network", "size", "evidence", "log evidence, nats", SIZE, "first query", "a later one", "holds"),
                by_hand,
            ),
            "The differences of each peer's answer from the one by hand. The programs share nothing but the tables, so"
            f" that one above {TOLERANCE:g} is a mistake of either. Most probable states are compared by their log"
            " probability: several may be the most probable.",
            table(("network", "peer", EVIDENCE, MARGINAL, "most probable states", "a query", "holds", "note"), peers),
            "EM where states are missing, and where none is: it must end where the shares of the counts are.",
            table(("EM", "value", "reference", "error", "holds", "note"), [_em_line(row) for row in learnt.values()]),
        ]
    )


def _hand_line(name: str, found: Mapping[str, Row]) -> list[str]:
    size, evidence = found.get(SIZE), found.get(EVIDENCE)
    notes = [row.note if row else "" for row in (size, evidence)]
    numbers = [number(row.value if row else None) for row in (evidence, size)]
    return [name, *notes, *numbers, *(_time(found.get(what)) for what in (FIRST, LATER)), _holds(found)]


def _peer_line(name: str, peer: str, found: Mapping[str, Row]) -> list[str]:
    errors = [number(row.error if (row := found.get(what)) else None) for what in (EVIDENCE, MARGINAL, BEST)]
    note = next((row.note for what in (ABSENT, QUERY) if (row := found.get(what))), "")
    return [name, peer, *errors, _time(found.get(QUERY)), _holds(found), note]


def _em_line(row: Row) -> list[str]:
    value = _time(row) if row.unit == "s" else f"{number(row.value)} {row.unit}".strip()
    return [row.quantity, value, number(row.reference), number(row.error), mark(row.ok), row.note]


def _time(row: Row | None) -> str:
    if row is None or row.value is None:
        return "–"
    return f"{1e3 * row.value:.3g} ms" if row.value < 1.0 else f"{row.value:.3g} s"


def _holds(found: Mapping[str, Row]) -> str:
    """Return whether all claims of some rows hold; nothing where there is none."""
    claims = [row.ok for row in found.values() if row.ok is not None]
    return mark(all(claims) if claims else None)


# --- what runs in the fresh process -----------------------------------------------------------------------------------


def _in_fresh_process(name: str, seed: int, num_later: int) -> tuple[float, float]:
    """Return the seconds of the first query by hand in a process, and the median of later ones."""
    command = [sys.executable, "-m", "latentzoo.benchmarks.queries", name, str(seed), str(num_later)]
    first, later = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return first, later


def _measure(name: str, seed: int, num_later: int) -> tuple[float, float]:
    question = questions(seed)[name]
    zoo = question.zoo
    seconds = []
    for _ in range(1 + num_later):
        start = time.perf_counter()
        zoo.query(evidence=question.evidence)
        seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
