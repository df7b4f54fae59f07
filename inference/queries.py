"""Queries of a Bayesian network: what evidence says of every node, by hand or by either library's enumeration."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.automatic import Pair, backend, constants
from latentzoo.models.language import contract
from latentzoo.models.language.binding import Bound
from latentzoo.models.language.contract import Params
from latentzoo.models.language.files import atomic
from latentzoo.models.language.graph import Network
from latentzoo.models.language.ppl import Handle, Library

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

TILT = "tilt."  # begins the names of the parameters whose gradients are marginals


@dataclass(frozen=True)
class Query:
    """What evidence says.

    Attributes
    ----------
    network: that was asked.
    evidence: the states of the nodes that are known.
    log_evidence: its log probability, in nats.
    marginals: the probability of each state of each node given the evidence, `marginals[node][state]`.
    map: the states of all nodes that are most probable together, given the evidence; of several the first.
    """

    network: Network
    evidence: Mapping[str, str]
    log_evidence: float
    marginals: Mapping[str, Mapping[str, float]]
    map: Mapping[str, str]

    def __str__(self) -> str:
        seen = ", ".join(f"{node}={state}" for node, state in self.evidence.items()) or "no evidence"
        chance = f", probability {np.exp(self.log_evidence):.6g}" if self.evidence else ""
        lines = [f"{self.network.name}: {seen}; log evidence {self.log_evidence:.10g} nats{chance}", ""]
        names = max(4, *map(len, self.network.nodes))
        best = max(21, *map(len, self.map.values()))
        lines.append(f"{'node':<{names}}  {'most probable together':<{best}}  probability of each state")
        for node, probs in self.marginals.items():
            each = "  ".join(f"{state} {prob:.6f}" for state, prob in probs.items())
            lines.append(
                f"{node:<{names}}  {self.map[node]:<{best}}  {each}{'  (seen)' if node in self.evidence else ''}"
            )
        return "\n".join(lines)

    def save(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """Write the numbers as JSON and the graph as a picture into a folder; yield each file with a line on it."""
        from latentzoo.inference.pictures.dot import Graph, save
        from latentzoo.inference.pictures.network import dot

        found = {
            "network": self.network.name,
            "evidence": dict(self.evidence),
            "log_evidence": self.log_evidence,
            "marginals": {node: dict(probs) for node, probs in self.marginals.items()},
            "map": dict(self.map),
        }
        with atomic(folder / "query.json", "w", encoding="utf-8") as file:
            file.write(json.dumps(found, indent=2) + "\n")
        yield folder / "query.json", "the numbers"
        yield save(Graph(dot(self.network, self.marginals, self.evidence)), folder / "network")


def query(
    zoo: Any,
    *,
    evidence: Mapping[str, str] | None = None,
    library: Library | None = None,
    params: Params | None = None,
) -> Query:
    """Say what evidence on some nodes of a Bayesian network tells of all of them.

    evidence: NODE=STATE of each node that is known.
    library: by whose enumeration: pyro or numpyro; by default by hand, which is exact likewise and faster.
    params: the tables, such as those of a fit; by default the network's own.

    Raises
    ------
    UserError: an unknown node or state, evidence of probability zero, or a network that is too wide.
    """
    network, evidence = zoo.spec.graph, dict(evidence or {})
    states = np.full((1, len(network.nodes)), -1)
    for node, state in evidence.items():
        states[0, network.place.get(node, 0)] = network.state(node, state)
    data, prior = zoo.check(zoo.Data(states)), zoo.Prior()
    checked = None if params is None else zoo.check_params(params)
    params = zoo.closed_form.exact(checked, data, prior, zoo.spec)
    # By hand, evidence of probability zero is found exactly, and a network too wide before any table is made.
    found = _by_hand(zoo, data, params) if library is None else _by_library(zoo, data, params, library)
    marginals = {
        node: {state: float(prob) for state, prob in zip(network.states_of(node), probs, strict=False)}
        for node, probs in zip(network.nodes, found.marginals, strict=True)
    }
    best = {node: network.states_of(node)[int(place)] for node, place in zip(network.nodes, found.map, strict=True)}
    return Query(network, evidence, float(found.log_evidence), marginals, best)


class Found(NamedTuple):
    """The answer in arrays: log p(evidence), the probabilities of each node's states, the most probable states."""

    log_evidence: float
    marginals: Any
    map: Any


def _by_hand(zoo: "Entry", data: Any, params: Params) -> Found:
    """Return what exact inference says of the one row, "exact" of `fit`."""
    found = zoo.closed_form.predict(params, data, zoo.Prior(), zoo.spec)
    return Found(*(found[name][0] for name in ("log_evidence", "marginals", "states")))


def _by_library(zoo: "Entry", data: Any, params: Params, library: Library) -> Found:
    """Return the same by the library's enumeration of the model itself.

    The marginals are a gradient: where t_v is added to the log probability of state v of a node, the derivative of the
    log evidence by t_v is the probability of v given the evidence.
    """
    _by_hand(zoo, data, params)  # refuses what the libraries would give a number for
    auto, network, args = backend(library), zoo.spec.graph, (data, zoo.Prior(), params)
    program = Bound(_tilted(zoo), zoo.spec, {"theta": zoo.Theta}, zoo.name).on(library)
    with auto.precision():
        pair = Pair(program, zoo.guide.on(library), args, {}, zoo.model_room.MAX_PLATE_NESTING)
        tilts = {TILT + node: np.zeros(len(network.states_of(node))) for node in network.nodes}
        values, gradient = auto.elbos(pair, constants)(contract.leaves(params) | tilts, [{}], np.ones(1))
        best = auto.most_probable(zoo.model.on(library), args, zoo.model_room.MAX_PLATE_NESTING)
    # NumPyro does not settle a site of one state.
    states = [best[node].item() if len(network.states_of(node)) > 1 else 0 for node in network.nodes]
    return Found(values[0], [gradient[TILT + node] for node in network.nodes], states)


def _tilted(zoo: "Entry") -> Any:
    """Return the model with a parameter for each state of each node, zero, that is added to its log probability."""
    network = zoo.spec.graph

    def model(ppl: Handle, data: Any, prior: Any, theta: Any, spec: Any) -> Any:
        def sample(name: str, distribution: Any, **options: Any) -> Any:
            value = ppl.sample(name, distribution, **options)
            if name in network.place:
                tilt = ppl.param(TILT + name, np.zeros(len(network.states_of(name))))
                ppl.factor(f"{TILT}of {name}", ppl.at(tilt, value))
            return value

        return zoo.model_room.model(replace(ppl, sample=sample), data, prior, theta, spec)

    return model


def d_separated(zoo: Any, *, a: tuple[str, ...], b: tuple[str, ...], given: tuple[str, ...] = ()) -> bool:
    """Say whether the graph alone makes nodes independent of others, given further ones (d-separation).

    a: the nodes on one side.
    b: those on the other.
    given: those that are known.

    Raises
    ------
    UserError: an unknown node, or one that is named twice.
    """
    return zoo.spec.graph.d_separated(a, b, given)
