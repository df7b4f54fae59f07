"""How an estimator is measured: the bias and the variance of its gradient, and its seconds, step by step as in SVI."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference import estimators
from latentzoo.inference.automatic import Arrays, Pair, backend
from latentzoo.inference.particles import Estimator
from latentzoo.inference.stopwatch import Stopwatch

NUM_BLOCKS = 5  # of steps, each timed: their median is what is told
LEVEL = 1e-6  # how probable it is that an unbiased estimator fails the test
POWER = 0.99  # the probability with which a bias of the size that is told would have been seen
ROUNDING = 1e-10  # relative to the largest number of the gradient


class Contest(NamedTuple):
    """Where estimators are measured.

    pairs: the programs with their arguments, by library. params: the values of their `param` sites, by name.
    rows: the names of the plates over rows.
    """

    pairs: Mapping[str, Pair]
    params: Arrays
    rows: Sequence[str] = ()


class Steps(NamedTuple):
    """Estimates of a gradient, one a step.

    each: (steps, numbers), the numbers of all parameters one after another, in the order of the params.
    seconds: of a step, compilation apart: the median over blocks. compile_seconds: what JAX took to compile.
    """

    each: Float[np.ndarray, "steps numbers"]
    seconds: float
    compile_seconds: float = 0.0

    @property
    def mean(self) -> Float[np.ndarray, "numbers"]:
        """The mean over the steps."""
        return self.each.mean(0)

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(self.each.var(axis=0, ddof=1).sum())

    @property
    def variance_error(self) -> float:
        """The standard error of the variance."""
        squared = ((self.each - self.mean) ** 2).sum(1)
        return float(squared.std(ddof=1) / np.sqrt(len(squared)))


def flat(arrays: Mapping[str, Any], lead: int = 0) -> Float[np.ndarray, "..."]:
    """Return arrays by name as one, the first so many axes kept and the others one after another."""
    parts = [np.asarray(leaf, dtype=np.float64) for leaf in arrays.values()]
    return np.concatenate([part.reshape(*part.shape[:lead], -1) for part in parts], axis=-1)


def steps(
    library: str, estimator: str | Estimator, contest: Contest, num_steps: int, *, num_particles: int = 1, seed: int = 0
) -> Steps:
    """Return so many estimates at the same parameters, and the seconds of each, as in a step of SVI.

    A baseline that remembers goes on from step to step.
    """
    pair = contest.pairs[library]
    depth = pair.max_plate_nesting
    loss = estimators.loss(library, estimator, num_particles=num_particles, rows=contest.rows, max_plate_nesting=depth)
    run = {"numpyro": _in_numpyro, "pyro": _in_pyro}[library]
    with backend(library).precision():
        return run(loss, contest, pair, num_steps, seed)


def _in_numpyro(loss: Any, contest: Contest, pair: Pair, num_steps: int, seed: int) -> Steps:
    """Take the steps inside a compiled loop."""
    import jax
    import jax.numpy as jnp

    from latentzoo.inference.particles_numpyro import MEMORY

    def step(params: Arrays, memory: Any, key: Any) -> tuple[Any, Any]:
        def lost(params: Arrays) -> tuple[Any, Any]:
            told = loss.loss_with_mutable_state(
                key, {**params, MEMORY: memory}, pair.model, pair.guide, *pair.args, **pair.kwargs
            )
            return told["loss"], told["mutable_state"][MEMORY]

        gradient, memory = jax.grad(lost, has_aux=True)(params)
        return memory, jnp.concatenate([-gradient[name].reshape(-1) for name in contest.params])

    @jax.jit
    def block(params: Arrays, memory: Any, keys: Any, moves: Any) -> tuple[Any, Any]:
        # Were the parameters the same at all steps, what does not depend on the draws would be computed only once.
        def moved(memory: Any, each: Any) -> tuple[Any, Any]:
            return step({name: leaf + each[1] for name, leaf in params.items()}, memory, each[0])

        return jax.lax.scan(moved, memory, (keys, moves))

    params = {name: jnp.asarray(leaf) for name, leaf in contest.params.items()}
    memory, keys = jnp.zeros(2), jax.random.split(jax.random.PRNGKey(seed), (NUM_BLOCKS, -(-num_steps // NUM_BLOCKS)))
    moves = jnp.zeros(keys.shape[1])
    with Stopwatch() as watch:
        compiled = block.lower(params, memory, keys[0], moves).compile()
    found, seconds = [], []
    for several in keys:
        start = time.perf_counter()
        memory, each = compiled(params, memory, several, moves)
        each.block_until_ready()
        seconds.append((time.perf_counter() - start) / len(several))
        found.append(np.asarray(each))
    return Steps(np.concatenate(found), statistics.median(seconds), watch.compiling)


def _in_pyro(loss: Any, contest: Contest, pair: Pair, num_steps: int, seed: int) -> Steps:
    """Take the steps one after another, in a parameter store of their own."""
    import pyro
    import torch

    store, found, seconds = pyro.get_param_store(), [], []
    with store.scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss.loss_and_grads(pair.model, pair.guide, *pair.args, **pair.kwargs)  # makes the parameters
        leaves = dict(store.named_parameters())
        for leaf in leaves.values():
            leaf.grad = None
        for _ in range(num_steps):
            start = time.perf_counter()
            loss.loss_and_grads(pair.model, pair.guide, *pair.args, **pair.kwargs)
            seconds.append(time.perf_counter() - start)
            gradient = {name: leaves[name].grad for name in contest.params}
            zeros = {name: np.zeros(np.shape(leaf)) for name, leaf in contest.params.items()}
            found.append(flat({name: zeros[name] if g is None else -g.numpy() for name, g in gradient.items()}))
            for leaf in leaves.values():
                leaf.grad = None
    return Steps(np.stack(found), statistics.median(seconds))


# --- bias -------------------------------------------------------------------------------------------------------------


class Bias(NamedTuple):
    """How far the mean of estimates is from the exact gradient; lengths are in units of the exact gradient's.

    size: the length of the bias, that of the noise of the mean taken off. score: the largest z-score of all numbers.
    allowed: what it exceeds with probability `LEVEL` where there is no bias (Student's t, for all numbers together).
    seen: the bias of a number, at most, that would have exceeded it with probability `POWER`.
    """

    size: float
    score: float
    allowed: float
    seen: float


def bias(found: Steps, exact: Float[np.ndarray, "numbers"]) -> Bias:
    """Return the bias of estimates. Numbers that never vary must be right to rounding."""
    from scipy import stats

    count, off, length = len(found.each), np.abs(found.mean - exact), float(np.linalg.norm(exact))
    error = found.each.std(axis=0, ddof=1) / np.sqrt(count)
    rounding = ROUNDING * max(1.0, float(np.abs(exact).max()))
    still = error <= rounding
    score = np.where(still, np.where(off <= rounding, 0.0, np.inf), off / np.where(still, 1.0, error))
    allowed = float(stats.t.isf(LEVEL / (2 * max((~still).sum(), 1)), count - 1))
    noise = (error**2).sum()
    size = float(np.sqrt(max((off**2).sum() - noise, 0.0)))
    seen = (allowed + float(stats.norm.ppf(POWER))) * float(error.max())
    return Bias(size / length, float(score.max()), allowed, seen / length)


class Moments(NamedTuple):
    """An estimator at the nodes of a quadrature rule. each: (nodes, numbers), its gradients. weights: (nodes,)."""

    each: Float[np.ndarray, "nodes numbers"]
    weights: Float[np.ndarray, "nodes"]

    @property
    def mean(self) -> Float[np.ndarray, "numbers"]:
        """The expectation."""
        return self.weights @ self.each

    @property
    def variance(self) -> Float[np.ndarray, "numbers"]:
        """The variance of each number."""
        return self.weights @ (self.each - self.mean) ** 2


def hermite(num_nodes: int, size: int) -> tuple[Float[np.ndarray, "nodes size"], Float[np.ndarray, "nodes"]]:
    """Return nodes and weights of the expectation over so many standard normal numbers.

    It is exact for polynomials of degree 2 num_nodes - 1 in each of them.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    grid = np.stack(np.meshgrid(*[nodes] * size, indexing="ij"), axis=-1).reshape(-1, size)
    products = np.stack(np.meshgrid(*[weights / weights.sum()] * size, indexing="ij"), axis=-1).reshape(-1, size)
    return grid, products.prod(1)


def at_nodes(
    library: str,
    estimator: str | Estimator,
    contest: Contest,
    noise: Arrays,
    weights: Float[np.ndarray, "nodes"],
    num_particles: int = 1,
) -> Moments:
    """Return the moments of an estimator by a quadrature rule. noise: (nodes, particles, *shape) of each site.

    Where the rows are handed the same noise, variances are right of numbers that belong to one row alone.
    """
    _, found = estimators.gradients(
        library,
        estimator,
        contest.pairs[library],
        contest.params,
        num_particles=num_particles,
        num_draws=len(weights),
        rows=contest.rows,
        noise=noise,
    )
    return Moments(flat({name: found[name] for name in contest.params}, lead=1), weights)
