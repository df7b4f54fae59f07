"""Exact inference, EM and MAP for discrete Bayesian networks: hand-derived bound, gradient and updates.

Symbols: theta_i(u, x) = p(x_i = x | parents in state u), the softmax of the logits along x; alpha_i the concentration
of its Dirichlet prior; e_n what row n shows. Equation numbers are this file's own.

    (1)  log p(e_n)                                                        by elimination, `elimination.py` (2)
    (2)  N_i(u, x) = sum_n p(parents = u, x_i = x | e_n)                   the expected counts, likewise (4)
    (3)  bound = sum_n log p(e_n)                                          no q is better than the posterior
    (4)  sum_i sum_u log Dirichlet(theta_i(u, .); alpha_i(u, .))           is added to it where there is a prior
    (5)  d bound / d log theta_i(u, x) = N_i(u, x)
    (6)  d bound / d logit_i(u, x) = N_i(u, x) - theta_i(u, x) sum_x N_i(u, x)

(5): theta_i(u, x) is a factor of p(e_n) as often as the family is in that state, so that its log derivative is the
probability of that. A probability below 1e-290 counts as zero, and what it makes impossible is so exactly.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.guides.bayesian_network import Phi, own_tables
from latentzoo.inference.arrays import namespace, special
from latentzoo.inference.conjugate import log_dirichlet, log_shares, softmax_gradient
from latentzoo.inference.elimination import Rows as Group
from latentzoo.inference.elimination import (
    Tables,
    Upward,
    added,
    beliefs,
    family_marginals,
    maximised,
    most_probable,
    node_marginals,
    summed,
    upward,
    visit,
)
from latentzoo.inference.queries import d_separated, query
from latentzoo.models.bayesian_network import Data, Prior, Spec, Theta, site
from latentzoo.models.language.contract import Action, Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network
from latentzoo.models.language.tables import IMPOSSIBLE, logits_of
from latentzoo.models.readers.bif import format_bif

METHODS = ("em", "map", "mle", "exact", "svi")
PROOF = "expectation"
ACTIONS = {"query": Action(query, "network", saves=True), "d_separated": Action(d_separated, "network")}

Array = Any


class Stats(NamedTuple):
    """Sums over rows: those of two sets of rows add up to those of their union.

    bound: (3). scale: a bound on the sum of its absolute terms. counts: (2), of each node as its table.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    counts: dict[str, Float[Array, "..."]]


def log_tables(theta: Theta) -> dict[str, Float[Array, "..."]]:
    """Return log p(node | parents) of each node, -inf where it is zero."""
    return {node: _log_table(logits) for node, logits in theta.logits.items()}


def _log_table(logits: Array) -> Float[Array, "..."]:
    log_probs = special(logits).log_softmax(logits, axis=-1)
    return namespace(logits).where(log_probs < np.log(IMPOSSIBLE), -np.inf, log_probs)


# --- the E step -----------------------------------------------------------------------------------------------------


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the log likelihood of the rows and the expected counts of each family.

    Raises
    ------
    UserError: a row has probability zero under these tables, or the network is too wide for the rows with missing
        states.
    """
    tables, network = log_tables(params.theta), spec.graph
    bound, scale = 0.0, 0.0
    counts = {node: namespace(table).zeros_like(table) for node, table in tables.items()}
    for rows in visit(network, data.states):
        found = upward(rows.plan, tables, rows.states, summed)
        _check_possible(rows, found, tables, data.states)
        weighted = rows.count * found.log_evidence
        bound, scale = bound + weighted.sum(), scale + abs(weighted).sum() + len(network.nodes) * rows.count.sum()
        believed = beliefs(rows.plan, found)
        for node in network.nodes:
            counts[node] = counts[node] + _expected_counts(rows, believed, node, counts[node])
    return Stats(bound, scale, counts)


def _expected_counts(rows: Group, believed: list[Array], node: str, like: Array) -> Float[Array, "..."]:
    """Return (2) of some rows: their marginals of the unknown members of a family, each at the known states."""
    marginals = family_marginals(rows.plan, believed, node)
    weighted = rows.count.reshape(-1, *(1,) * (marginals.ndim - 1)) * marginals
    return added(rows.plan, node, rows.states, weighted, like)


def _check_possible(rows: Group, found: Upward, tables: Tables, states: Int[Array, "rows nodes"]) -> None:
    """Raise `UserError` where a row has probability zero; where JAX traces the rows, their bound is -inf instead."""
    if namespace(states) is not np or np.isfinite(found.log_evidence).all():
        return
    impossible = np.flatnonzero(~np.isfinite(np.broadcast_to(found.log_evidence, len(rows.states))))
    row = int(rows.rows[np.isin(rows.which, impossible)].min())
    where = f" in row {row}" if len(states) > 1 else ""
    raise UserError(f"evidence of probability zero{where}: {why_impossible(rows.plan.network, tables, states[row])}")


# --- the bound, its gradient, and the M step ------------------------------------------------------------------------


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return the log likelihood (3), in nats, with (4) where there is a prior."""
    total = stats.bound
    for node, concentration in (prior.concentration or {}).items():
        logits = params.theta.logits[node]
        total = total + log_dirichlet(special(logits).log_softmax(logits, axis=-1), concentration)
    return total


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the gradient (6) by the logits of each table; where there is a prior, alpha - 1 is added to the counts."""
    logits = params.theta.logits
    counts = _counts(stats, prior)
    return Params(theta=Theta({node: softmax_gradient(counts[node], logits[node]) for node in logits}))


def _counts(stats: Stats, prior: Prior) -> dict[str, Float[Array, "..."]]:
    """Return the counts whose shares the tables have at their best: N_i, or N_i + alpha_i - 1."""
    if prior.concentration is None:
        return stats.counts
    return {node: counts + prior.concentration[node] - 1.0 for node, counts in stats.counts.items()}


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the parameters after one exact update: each distribution has the shares of its counts.

    One that no row can tell anything of, since its parents are never in that state, stays as it is.
    """
    logits, counts = params.theta.logits, _counts(stats, prior)
    return Params(Theta({node: log_shares(counts[node], logits[node]) for node in logits}), Phi())


# --- without a loop ---------------------------------------------------------------------------------------------------


def mle(given: Params | None, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the maximum of the likelihood of complete data: the shares of the counts.

    A distribution without a count, since no row has its parents in that state, is that of `given`, or uniform.

    Raises
    ------
    UserError: a state is missing.
    """
    missing = np.argwhere(np.asarray(data.states) < 0)
    if missing.size:
        row, node = int(missing[0][0]), spec.graph.nodes[missing[0][1]]
        raise UserError(f"data.states[{row}] lacks the state of {node!r}: mle needs every one; take method='em'")
    even = Params(Theta({node: np.zeros(spec.graph.shape(node)) for node in spec.graph.nodes}), Phi())
    return m_step(e_step(even, data, Prior(), spec), given or even, Prior(), spec)


def exact(given: Params | None, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the tables that are given, or the network's own: nothing is learnt, the posterior of states is exact."""
    return given or own_tables(spec.graph)


# --- what is known of each row ----------------------------------------------------------------------------------------


def log_predictive(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return (1) of each row; one of probability zero counts as log 1e-300, so that fits can be ranked."""
    return np.maximum(_log_evidence(log_tables(params.theta), data, spec.graph), float(logits_of(np.zeros(()))))


def _log_evidence(tables: Tables, data: Data, network: Network) -> Float[np.ndarray, "rows"]:
    found = np.empty(len(data.states))
    for rows in visit(network, np.asarray(data.states)):
        evidence = upward(rows.plan, tables, rows.states, summed).log_evidence
        found[rows.rows] = np.broadcast_to(evidence, len(rows.states))[rows.which]
    return found


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows"]:
    """Return (1) of each row under given tables; those not given are of params."""
    return log_predictive(Params(_theta(latents, params.theta, spec)), data, prior, spec)


def _theta(sites: dict[str, Array], theta: Theta | None, spec: Spec) -> Theta:
    """Return theta with the values of sites in the place of its own."""
    names = {node: site(spec.graph, node) for node in spec.graph.nodes}
    return Theta(
        {node: logits_of(sites[name]) if name in sites else theta.logits[node] for node, name in names.items()}  # type: ignore[union-attr]
    )


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return what is known of the states of each row.

    marginals: (rows, nodes, most states), the probability of each state given the row, 0 beyond those of a node.
    states: (rows, nodes), the row with its missing states as they are most probable together.
    log_evidence: (rows,), the log probability of what it shows.

    Raises
    ------
    UserError: a row has probability zero.
    """
    tables, network = log_tables(params.theta), spec.graph
    states = np.asarray(data.states)
    marginals = np.zeros((len(states), len(network.nodes), max(map(len, network.states))))
    filled, evidence = np.empty_like(states), np.empty(len(states))
    for rows in visit(network, states):
        found = upward(rows.plan, tables, rows.states, summed)
        _check_possible(rows, found, tables, states)
        believed = beliefs(rows.plan, found)
        for node in network.nodes:
            each = node_marginals(rows.plan, believed, node, rows.states)
            each = np.broadcast_to(each, (len(rows.states), each.shape[1]))
            marginals[rows.rows, network.place[node], : each.shape[1]] = each[rows.which]
        best = most_probable(rows.plan, upward(rows.plan, tables, rows.states, maximised), rows.states)
        filled[rows.rows] = best[rows.which]
        evidence[rows.rows] = np.broadcast_to(found.log_evidence, len(rows.states))[rows.which]
    return {"marginals": marginals, "states": filled, "log_evidence": evidence}


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return the same under draws of the tables: the mean of the marginals, the states at the mean of the tables."""
    size = len(next(iter(draws.values())))
    each = [
        predict(
            Params(_theta({name: values[index] for name, values in draws.items()}, params.theta, spec)),
            data,
            prior,
            spec,
        )
        for index in range(size)
    ]
    mean = Params(_theta({name: values.mean(0) for name, values in draws.items()}, params.theta, spec))
    return {
        "marginals": np.mean([found["marginals"] for found in each], axis=0),
        "states": predict(mean, data, prior, spec)["states"],
        "log_evidence": special(draws).logsumexp(np.stack([found["log_evidence"] for found in each]), axis=0)
        - np.log(size),
    }


def why_impossible(network: Network, tables: Tables, states: Int[np.ndarray, "nodes"]) -> str:
    """Return the first node of a row whose state cannot be, given those before it: "either=no, given tub=yes"."""
    shown: list[str] = []
    known = np.full((1, len(network.nodes)), -1)
    for node in network.order:
        place = network.place[node]
        if states[place] < 0:
            continue
        known[0, place] = states[place]
        word = f"{node}={network.states_of(node)[states[place]]}"
        if not np.isfinite(_log_evidence(tables, Data(known), network)).all():
            return f"node {node!r} cannot be {word.partition('=')[2]!r}" + (
                f" given {', '.join(shown)}" if shown else ""
            )
        shown.append(word)
    return "its states cannot be together"


# --- what one looks at ------------------------------------------------------------------------------------------------


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return how many rows are impossible under the tables, where any is: the log density of the data is then -inf."""
    impossible = np.count_nonzero(~np.isfinite(_log_evidence(log_tables(params.theta), data, spec.graph)))
    return {"impossible_rows": float(impossible), "log_density": -np.inf} if impossible else {}


def exports(params: Params, spec: Spec) -> dict[str, str]:
    """Return the network with these tables as a file in BIF, by its name."""
    return {"network.bif": format_bif(fitted(params, spec))}


def fitted(params: Params, spec: Spec) -> Network:
    """Return the network with these tables."""
    return spec.graph.with_tables({node: np.exp(table) for node, table in log_tables(params.theta).items()})


def describe(params: Params, data: Data | None, spec: Spec) -> str:
    """Return a table of the nodes: their parents, and the probability of each state before anything is known."""
    network = spec.graph
    head = ("node", "probability of each state", "parents")
    try:
        prior = predict(params, Data(np.full((1, len(network.nodes)), -1)), Prior(), spec)["marginals"][0]
    except UserError as error:  # too wide: the tables may have been learnt from complete rows even so
        return f"no marginals: {error}"
    rows = []
    for node, probs in zip(network.nodes, prior, strict=True):
        words = "  ".join(f"{state} {prob:.4f}" for state, prob in zip(network.states_of(node), probs, strict=False))
        rows.append((node, words, ", ".join(network.parents_of(node))))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in (head, *rows))
