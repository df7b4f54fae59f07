"""Exact expectations under a guide, from the libraries' one-draw ELBO alone.

Each way of taking E_q[g] is a rule: nodes (values of the continuous latent sites) and weights that depend on the
parameters, sum_i w_i(params) g(node_i, params). Its gradient has two parts, that of g at fixed nodes, which the library
differentiates, and that of the weights. Discrete sites never appear: the library enumerates them inside g.

    conjugate probe   g is linear in the sufficient statistics T of the guide's sites, so solving for its coefficients
                      at dim T + 8 nodes and inserting E_q[T] is exact. The residual of the solution is the test: a
                      non-conjugate integrand leaves one that shows.
    quadrature        one scalar site: the trapezoid rule in the site's unconstrained coordinate, exact to rounding for
                      the smooth, fast falling densities at hand.
    Monte Carlo       everything else: draws with a standard error, whose power is stated.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.automatic import Array, Arrays, Backend, Pair, Site, constants
from latentzoo.inference.families import FAMILIES, JOINT, expected_statistics, family, statistics
from latentzoo.models.language.contract import as_numpy

Nodes = list[dict[str, np.ndarray]]
NUM_PILOTS = 8  # draws of the guide that say where its sites lie
EXTRA_NODES = 8  # beyond the number of unknowns: what the residual is measured on
RESIDUAL = 1e-12  # relative to the largest integrand: rounding leaves 1e-14, a non-conjugate integrand 1e-2
NUM_BATCHES, BATCH = 40, 25  # of a z-test


class Rule(NamedTuple):
    """A way to take an expectation: its name, its nodes, and its weights as a function of the parameters."""

    way: str
    nodes: Nodes
    weights: Callable[[Arrays], Array]
    design: np.ndarray | None = None  # where the integrand must lie in a span: its basis at the nodes
    separable: bool = False  # no two sites interact: each block's optimum makes its part of the integrand constant

    def holds(self, values: np.ndarray) -> bool:
        """Return whether the integrand, by its values at the nodes, is one that this rule integrates exactly."""
        if self.design is None:
            return True
        fitted = self.design @ np.linalg.lstsq(self.design, values, rcond=None)[0]
        return bool(np.abs(values - fitted).max() < RESIDUAL * max(1.0, np.abs(values).max()))


class Estimate(NamedTuple):
    """An expectation and its gradient by every parameter, with standard errors (zero where the rule is exact)."""

    value: float
    gradient: Arrays
    value_error: float
    gradient_error: Arrays


# --- the integrand --------------------------------------------------------------------------------------------------


class Integrand:
    """The one-draw ELBO of a pair as a function of the continuous latent sites, at given parameters."""

    def __init__(self, backend: Backend, pair: Pair):
        self.backend, self.pair = backend, pair
        self.elbos = backend.elbos(pair, constants)

    def sites(self, params: Arrays, node: dict[str, np.ndarray] | None = None, seed: int = 0) -> dict[str, Site]:
        """Return the continuous sites of the guide, drawn from the seed or at the values of a node."""
        fixed = constants(node or {}, self.backend.ppl)
        found = self.backend.latents(self.pair, params, fixed, seed)
        return {name: site for name, site in found.items() if not site.discrete}

    def draw(self, params: Arrays, size: int, seed: int) -> Nodes:
        """Draw nodes from the guide."""
        seeds = np.random.SeedSequence(seed).generate_state(size)
        drawn = [self.sites(params, seed=int(each)) for each in seeds]
        return [{name: as_numpy(site.value) for name, site in sites.items()} for sites in drawn]

    def values(self, params: Arrays, nodes: Nodes) -> np.ndarray:
        """Return the integrand at the nodes."""
        return self.elbos(params, nodes, np.zeros(len(nodes)))[0]

    def estimate(self, params: Arrays, rule: Rule) -> Estimate | None:
        """Return the expectation and its gradient by a rule; None where the rule does not hold."""
        weights = as_numpy(rule.weights(params))
        values, inside = self.elbos(params, rule.nodes, weights)
        if not rule.holds(values):
            return None

        def weighted(leaves: Arrays) -> Array:
            return (rule.weights(leaves) * self.backend.ppl.array(values)).sum()

        value, outside = self.backend.value_and_gradient(weighted, params)
        gradient = {name: inside[name] + outside[name] for name in params}
        return Estimate(value, gradient, 0.0, {name: np.zeros_like(leaf) for name, leaf in gradient.items()})


# --- the conjugate probe --------------------------------------------------------------------------------------------


Block = tuple[str, ...]  # a site, or two of which the second depends on the first


@dataclass(frozen=True)
class Probe:
    """Which statistics span the integrand: those of each block, and the products of those of blocks that interact."""

    families: dict[str, str]
    blocks: tuple[Block, ...]
    products: tuple[tuple[Block, Block], ...]

    def spread(self, draws: Nodes, size: int, rng: np.random.Generator) -> Nodes:
        """Return nodes about the centre of some draws, so wide that the statistics are far from collinear."""
        nodes: Nodes = [{} for _ in range(size)]
        for name, kind in self.families.items():
            line = FAMILIES[kind].to_line(np.stack([each[name] for each in draws]))
            width = np.maximum(line.std(0), 0.0 if kind == "Normal" else 0.5)
            values = FAMILIES[kind].from_line(line.mean(0) + width * rng.normal(size=(size, *line.shape[1:])))
            for node, value in zip(nodes, values, strict=True):
                node[name] = value
        return nodes

    def statistics(self, node: dict[str, np.ndarray]) -> dict[Block, np.ndarray]:
        """Return the statistics of each block at a node."""
        return {
            block: statistics(tuple(self.families[name] for name in block), *(node[name] for name in block))
            for block in self.blocks
        }

    def row(self, parts: dict[Block, Any], xp: Any) -> Any:
        """Return the vector (T_1, ..., T_S, T_a x T_b, ...) of one node, or of the expectations."""
        outer = [(parts[a][:, None] * parts[b][None, :]).reshape(-1) for a, b in self.products]
        return xp.concatenate([*(parts[block] for block in self.blocks), *outer])


class Whitening(NamedTuple):
    """A linear map that makes the statistics of a site uncorrelated over the nodes: x and x^2 far from 0 are not.

    A statistic that never varies, such as the log weight of a single component, has no direction of its own.
    """

    centre: np.ndarray
    matrix: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Whitening":
        """Return the map for statistics with these rows."""
        centre, spread = rows.mean(0), rows.std(0)
        spread[spread == 0.0] = 1.0
        _, singular, right = np.linalg.svd((rows - centre) / spread, full_matrices=False)
        singular, right = singular[singular > 0.0], right[singular > 0.0]
        return cls(centre, (right.T / singular) / spread[:, None] * np.sqrt(len(rows)))

    def apply(self, vector: Any, array: Callable[[Any], Any]) -> Any:
        """Return the map of a vector of any library."""
        return (vector - array(self.centre)) @ array(self.matrix)


def find_probe(integrand: Integrand, params: Arrays, seed: int) -> Probe | None:
    """Return the probe of a pair; None where its guide has a site without known statistics, or a longer chain."""
    sites = integrand.sites(params)
    families = {name: family(site) for name, site in sites.items()}
    if not families or not set(families.values()) <= set(FAMILIES):
        return None
    first, second = integrand.draw(params, 2, seed)
    blocks = _blocks(families, _parents(integrand, params, first, second))
    if blocks is None:
        return None
    pairs = list(itertools.combinations(blocks, 2))
    if not pairs:
        return Probe(families, blocks, ())
    corners = [_corner(first, second, moved) for a, b in pairs for moved in ((), a, b, a + b)]
    values = integrand.values(params, corners).reshape(len(pairs), 4)
    mixed = np.abs(values @ np.array([1.0, -1.0, -1.0, 1.0]))
    interacting = mixed > 1e-11 * np.maximum(1.0, np.abs(values).max(1))
    return Probe(families, blocks, tuple(pair for pair, both in zip(pairs, interacting, strict=True) if both))


def _corner(first: dict[str, np.ndarray], second: dict[str, np.ndarray], moved: Sequence[str]) -> dict[str, np.ndarray]:
    return {**first, **{name: second[name] for name in moved}}


def _parents(
    integrand: Integrand, params: Arrays, first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, set[str]]:
    """Return on which sites' values the distribution of each site depends."""
    ppl = integrand.backend.ppl

    def expectations(node: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: as_numpy(expected_statistics(ppl, site)) for name, site in integrand.sites(params, node).items()}

    before = expectations(first)
    after = {moved: expectations(_corner(first, second, (moved,))) for moved in first}
    return {name: {moved for moved in after if not np.array_equal(before[name], after[moved][name])} for name in before}


def _blocks(families: dict[str, str], parents: dict[str, set[str]]) -> tuple[Block, ...] | None:
    """Return the sites, each with the one that depends on it; None where the means of products are not known."""
    pairs = [(next(iter(of)), name) for name, of in parents.items() if of]
    heads = [head for head, _ in pairs]
    known = all(len(of) < 2 for of in parents.values()) and len(set(heads)) == len(heads)
    if not known or any((families[a], families[b]) not in JOINT or parents[a] for a, b in pairs):
        return None
    bound = {name for pair in pairs for name in pair}
    return (*((name,) for name in families if name not in bound), *pairs)


def probe_rule(integrand: Integrand, params: Arrays, probe: Probe, seed: int) -> Rule:
    """Return the rule of a probe at these parameters."""
    ppl = integrand.backend.ppl
    draws = integrand.draw(params, NUM_PILOTS, seed)
    size = probe.row(probe.statistics(draws[0]), np).size
    nodes = probe.spread(draws, size + max(EXTRA_NODES, size // 4), np.random.default_rng(seed))

    each = [probe.statistics(node) for node in nodes]
    table = {block: np.stack([parts[block] for parts in each]) for block in probe.blocks}
    white = {block: Whitening.of(rows) for block, rows in table.items()}
    rows = {block: white[block].apply(part, np.asarray) for block, part in table.items()}
    design = np.stack([probe.row({block: part[i] for block, part in rows.items()}, np) for i in range(len(nodes))])
    design = np.column_stack([np.ones(len(nodes)), design])
    inverse = np.linalg.pinv(design)

    def weights(leaves: Arrays) -> Array:
        sites = integrand.sites(leaves, nodes[0])
        found = {block: expected_statistics(ppl, *(sites[name] for name in block)) for block in probe.blocks}
        parts = {block: white[block].apply(part, ppl.array) for block, part in found.items()}
        return ppl.array(inverse[0]) + probe.row(parts, ppl.xp) @ ppl.array(inverse[1:])

    return Rule("conjugate probe", nodes, weights, design, separable=not probe.products)


# --- the other ways -------------------------------------------------------------------------------------------------

_NUM_POINTS = 600
_WIDTH = 14.0  # standard deviations of the site in its unconstrained coordinate


def quadrature_rule(integrand: Integrand, params: Arrays, seed: int) -> Rule | None:
    """Return the trapezoid rule over the only continuous site, a scalar one; None where there is another."""
    ppl = integrand.backend.ppl
    sites = integrand.sites(params)
    if len(sites) != 1:
        return None
    ((name, site),) = sites.items()
    known = FAMILIES.get(family(site))
    if site.value.shape != () or known is None or known.log_jacobian is None:
        return None
    line = known.to_line(np.array([node[name] for node in integrand.draw(params, 200, seed)]))
    points = np.linspace(line.mean() - _WIDTH * line.std(), line.mean() + _WIDTH * line.std(), _NUM_POINTS)
    step = points[1] - points[0]
    nodes = [{name: known.from_line(point)} for point in points]
    support, offset = ppl.array(known.from_line(points)), ppl.array(known.log_jacobian(points) + np.log(step))

    def weights(leaves: Arrays) -> Array:
        distribution = integrand.sites(leaves, nodes[0])[name].distribution
        return ppl.xp.exp(distribution.log_prob(support) + offset)

    mass = float(as_numpy(weights(params)).sum())
    if abs(mass - 1.0) > 1e-12:
        return None
    return Rule("quadrature", nodes, weights)


def monte_carlo(integrand: Integrand, params: Arrays, seed: int) -> Estimate:
    """Return the expectation and its gradient by draws: means over batches, with their standard errors.

    The gradient is that of g at the draws plus the score function's, with the mean of the other batches as baseline.
    """
    nodes = integrand.draw(params, NUM_BATCHES * BATCH, seed)
    values = integrand.values(params, nodes).reshape(NUM_BATCHES, BATCH)
    means = values.mean(1)
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in params}
    for index in range(NUM_BATCHES):
        batch = nodes[index * BATCH : (index + 1) * BATCH]
        centred = (values[index] - np.delete(means, index).mean()) / BATCH
        inside = integrand.elbos(params, batch, np.full(BATCH, 1.0 / BATCH))[1]
        score = _score(integrand, params, batch, centred)
        for name in params:
            gradients[name].append(inside[name] + score[name])
    stacked = {name: np.stack(rows) for name, rows in gradients.items()}
    root = np.sqrt(NUM_BATCHES)
    return Estimate(
        float(means.mean()),
        {name: rows.mean(0) for name, rows in stacked.items()},
        float(means.std(ddof=1) / root),
        {name: rows.std(0, ddof=1) / root for name, rows in stacked.items()},
    )


def _score(integrand: Integrand, params: Arrays, nodes: Nodes, weights: np.ndarray) -> Arrays:
    """Return the gradient of sum_i w_i log q(node_i)."""

    def weighted(leaves: Arrays) -> Array:
        sites = [integrand.sites(leaves, node) for node in nodes]
        log_q = [sum(site.distribution.log_prob(site.value).sum() for site in each.values()) for each in sites]
        return sum(weight * each for weight, each in zip(weights.tolist(), log_q, strict=True))

    return integrand.backend.value_and_gradient(weighted, params)[1]


def enumeration_rule(integrand: Integrand, params: Arrays) -> Rule | None:
    """Return the rule of one empty node for a guide whose latent sites are all discrete, or absent."""
    ppl = integrand.backend.ppl
    if integrand.sites(params):
        return None
    return Rule("enumeration", [{}], lambda leaves: ppl.array(np.ones(1)))


def exact_rules(integrand: Integrand, params: Arrays, seed: int) -> Iterator[Rule | None]:
    """Yield the exact ways to take the expectation, the strongest first; None where a way does not apply."""
    yield enumeration_rule(integrand, params)
    probe = find_probe(integrand, params, seed)
    yield probe_rule(integrand, params, probe, seed) if probe else None
    yield quadrature_rule(integrand, params, seed)


def expectation(integrand: Integrand, params: Arrays, seed: int = 0) -> tuple[Rule | None, Estimate]:
    """Return the ELBO and its gradient by the strongest exact way, with that way; by draws, and None, without one."""
    for rule in exact_rules(integrand, params, seed):
        estimate = integrand.estimate(params, rule) if rule else None
        if estimate is not None:
            return rule, estimate
    return None, monte_carlo(integrand, params, seed)
