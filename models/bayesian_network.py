"""A Bayesian network: discrete nodes, each drawn from a table of probabilities, given the states of its parents.

    p(i | parents of i) ~ Dirichlet(concentration[i])     a table for each node, held at a point theta; or latent
    i[n] ~ Categorical(p(i | parents of i)[states of the parents in row n])    for each node i, after its parents

The graph is any directed acyclic one; the joint probability of a row is the product of its entries in the tables
(Pearl, 1988). A state that is missing (-1) is latent, and summed out: right where states are missing at random.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.models.language.contract import Reading, missing, optional, positive
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network
from latentzoo.models.language.ppl import ENUMERATE, RULED_OUT, Handle
from latentzoo.models.readers.networks import find_network
from latentzoo.models.readers.states import read_states, write_states

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
CONCENTRATION = 2.0  # see default_prior


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    network: the graph, and where parameters start from nothing its tables: "six_nodes", "asia", a file in BIF, or a
        `latentzoo.Network`.
    """

    network: str | Network = "six_nodes"

    def __post_init__(self) -> None:
        network = find_network(self.network)
        if taken := {*ROWS, *Data._fields} & set(network.nodes):
            raise UserError(f"node {min(taken)!r} of {network} is called as what all rows have is: rename it")
        object.__setattr__(self, "network", network)

    @property
    def graph(self) -> Network:
        """The network, whatever it was given as."""
        assert isinstance(self.network, Network)
        return self.network

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self.graph.nodes)


class Data(NamedTuple):
    """Rows of states.

    states: of each node, in the order of `spec.graph.nodes`, the place of its state; -1 where it is missing.
    """

    states: Annotated[Int[Any, "rows num_nodes"], missing] = None


class Prior(NamedTuple):
    """Hyperparameters; None for tables without a prior.

    concentration: by node, those of the Dirichlet priors of its table, (*parents, states).
    """

    concentration: Annotated[dict[str, Float[Any, "..."]] | None, positive, optional] = None


class Theta(NamedTuple):
    """Point parameters, real-valued: the softmax along the last axis is a distribution.

    logits: by node, those of p(node | parents), (*parents, states).
    """

    logits: dict[str, Float[Any, "..."]]


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta | None, spec: Spec) -> Data:
    """Tell how the rows come about: first the tables, then in each row one node after another, parents first."""
    dist, network = ppl.dist, spec.graph

    tables = {}
    for node in network.nodes:
        concentration = prior.concentration and prior.concentration[node]
        point = theta and ppl.nn.softmax(theta.logits[node])
        tables[node] = ppl.parameter(site(network, node), point, _dirichlets, ppl, concentration)

    with ppl.rows("rows", data):
        states: dict[str, Any] = {}
        for node in network.order:
            probs = ppl.at(tables[node], tuple(states[parent] for parent in network.parents_of(node)), event_dim=1)
            states[node] = ppl.sample(node, dist.Categorical(probs), infer=ENUMERATE)
            if data.states is not None:
                seen = data.states[..., network.place[node]]
                ruled_out = (seen >= 0) & (states[node] != seen)
                zero = ppl.xp.zeros_like(tables[node].reshape(-1)[0])
                ppl.factor(f"evidence on {node}", ppl.xp.where(ruled_out, zero + RULED_OUT, zero))
    return data if data.states is not None else Data(ppl.xp.stack([states[node] for node in network.nodes], -1))


def _dirichlets(ppl: Handle, concentration: Any) -> Any:
    """Return the prior of a table: a Dirichlet for each combination of states of the parents."""
    return ppl.dist.Dirichlet(concentration).to_event(len(concentration.shape) - 1)


def site(network: Network, node: str) -> str:
    """Return the name of the table of a node: "p(dysp | bronc, either)"."""
    parents = network.parents_of(node)
    return f"p({node} | {', '.join(parents)})" if parents else f"p({node})"


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name: those of tables are called as their nodes."""
    network = spec.graph
    return {site(network, node): network.family(node) for node in network.nodes}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return Dirichlet priors of concentration 2: MAP then adds one row to each entry of a table (Laplace)."""
    network = spec.graph
    return Prior({node: np.full(network.shape(node), CONCENTRATION) for node in network.nodes})


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: states have names, and mean what these say."""
    return None


# --- data -------------------------------------------------------------------------------------------------------------


def check_data(data: Data, spec: Spec) -> None:
    """Raise `UserError` that names the first row with a state that its node does not have."""
    if data.states is None:
        return
    network, states = spec.graph, np.asarray(data.states)
    wrong = states >= np.array([len(each) for each in network.states])
    if wrong.any():
        row, place = (int(each) for each in np.argwhere(wrong)[0])
        node = network.nodes[place]
        most = len(network.states_of(node)) - 1
        raise UserError(f"data.states[{row}, {place}] is {states[row, place]}: node {node!r} has states up to {most}")


def read(path: str | PathLike[str], spec: Spec, *, on_bad: Literal["error", "skip"] = "error") -> Reading:
    """Read a table in CSV with a column for each node, whose cells are the names of its states.

    Cells that are empty, NA, NaN or ? are missing; a node without a column is latent in every row.

    on_bad: "error" refuses a file with cells that are no state of their node, "skip" leaves their rows out and says so.
    """
    found = read_states(path, spec.graph, on_bad=on_bad)
    return Reading(Data(found.states), str(found.report), found.report.num_rows - found.report.num_kept)


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write a table in the CSV that `read` reads without options."""
    write_states(path, data.states, spec.graph)
