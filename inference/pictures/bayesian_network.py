"""A fitted Bayesian network: its graph, each node with the probabilities of its states before anything is known."""

from typing import Any

import numpy as np

from latentzoo.inference.pictures.dot import Graph
from latentzoo.inference.pictures.network import dot
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError


def draw(fit: Fit, test: Any = None) -> dict[str, Graph]:
    """Return the graph; a fit by a guide of one's own, or of a network too wide for exact inference, has none."""
    if fit.params.theta is None or fit.guide is not None:
        return {}
    zoo, network = fit.entry, fit.entry.spec.graph
    nothing = zoo.Data(np.full((1, len(network.nodes)), -1))
    try:
        found = zoo.closed_form.predict(Params(fit.params.theta), nothing, zoo.Prior(), zoo.spec)["marginals"][0]
    except UserError:
        return {}
    marginals = {
        node: dict(zip(network.states_of(node), map(float, probs), strict=False))
        for node, probs in zip(network.nodes, found, strict=True)
    }
    return {"network": Graph(dot(network, marginals, {}))}
