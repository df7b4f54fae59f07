"""No guide: missing states are summed out exactly, so that the bound is the log likelihood itself."""

from typing import NamedTuple

import numpy as np

from latentzoo.models.bayesian_network import Data, Prior, Spec, Theta
from latentzoo.models.language.contract import Params
from latentzoo.models.language.graph import Network
from latentzoo.models.language.ppl import Handle
from latentzoo.models.language.tables import check_maximum, logits_of

LOSS = "enumerated"
LOCAL = ()


class Phi(NamedTuple):
    """No variational parameters: q is the posterior of the missing states."""


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta | None, phi: Phi, spec: Spec) -> None:
    """Draw nothing: the model enumerates its nodes."""


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at the shares in the rows that show a family whole, to which noise adds one row for each distribution.

    The noise, a draw of a flat Dirichlet, tells the states of a node that is never seen apart. With nothing observed:
    the network's own tables.

    Raises
    ------
    UserError: a prior concentration is below one: its density has no maximum.
    """
    network = spec.graph
    check_maximum(prior)
    if data.states is None:
        return own_tables(network)
    states, logits = np.asarray(data.states), {}
    for node in network.nodes:
        counts = rng.dirichlet(np.ones(network.shape(node)[-1]), network.shape(node)[:-1])
        family = states[:, [network.place[each] for each in network.family(node)]]
        np.add.at(counts, tuple(family[(family >= 0).all(1)].T), 1.0)
        logits[node] = np.log(counts / counts.sum(-1, keepdims=True))
    return Params(Theta(logits), Phi())


def own_tables(network: Network) -> Params:
    """Return the tables that a network came with as parameters."""
    return Params(Theta({node: logits_of(network.table(node)) for node in network.nodes}), Phi())
