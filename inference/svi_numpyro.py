"""NumPyro's SVI in blocks of steps, each a scan that is compiled once: `SVI.run` costs several times that."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from latentzoo.inference.automatic import backend
from latentzoo.inference.automatic_numpyro import QUICKLY
from latentzoo.inference.svi import BLOCK, Problem, Start
from latentzoo.models.language.contract import Params, as_numpy, take_rows


class Stepper:
    """SVI from one start."""

    def __init__(self, problem: Problem, begin: Start):
        import jax

        self._auto = backend("numpyro")
        with self._auto.precision():
            self._svi, start, self._advance = _compiled(problem)
            self._args = begin.args
            data, *others = begin.args
            batch = data if problem.total_rows is None else take_rows(data, slice(0, 1))
            self._state = start(jax.random.PRNGKey(begin.seed), batch, *others)
            if begin.state is not None:
                self._restore(begin.state)

    def advance(self, rates: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Take a step at each of the learning rates; a block that is not full is filled up with steps not taken."""
        size = len(rates)
        taken = np.arange(BLOCK) < size
        padded = None if rows is None else rows[np.minimum(np.arange(BLOCK), size - 1)]
        with self._auto.precision():
            rates = np.where(taken, np.resize(rates, BLOCK), 0.0)
            self._state, losses = self._advance(self._state, (rates, taken, padded), *self._args)
            return as_numpy(losses)[:size]

    def values(self) -> dict[str, np.ndarray]:
        """Return the constrained value of each `param` site."""
        with self._auto.precision():
            return {name: as_numpy(value) for name, value in self._svi.get_params(self._state).items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return the leaves of the state, numbered."""
        import jax

        return {f"numpyro.{index}": as_numpy(leaf) for index, leaf in enumerate(jax.tree.leaves(self._state))}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        import jax

        leaves, tree = jax.tree.flatten(self._state)
        kept = [self._auto.ppl.array(state[f"numpyro.{index}"]) for index in range(len(leaves))]
        self._state = jax.tree.unflatten(tree, kept)


@functools.lru_cache(maxsize=16)
def _compiled(problem: Problem) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """Return NumPyro's SVI object of a problem, its compiled start, and the compiled block of its steps."""
    import jax
    import jax.numpy as jnp
    import optax
    from numpyro.infer import SVI

    optimiser = {"adam": optax.adam, "sgd": optax.sgd}[problem.optimiser]
    transformation = optax.inject_hyperparams(optimiser)(learning_rate=0.0)
    loss = problem.zoo.loss.numpyro(num_particles=problem.num_particles, estimator=problem.estimator)
    guide = problem.guide if problem.estimator is None else loss.remembering(problem.guide)
    svi = SVI(problem.zoo.model.numpyro, guide, transformation, loss)

    def advance(state: Any, steps: Any, data: Any, prior: Any, params: Params) -> Any:
        def one(state: Any, step: Any) -> Any:
            rate, taken, rows = step
            batch = data if rows is None else take_rows(data, rows)
            moved, loss = svi.update(_at_rate(state, rate), batch, prior, params, **problem.kwargs)
            # The guide of a user may mix precisions: each number of the state keeps its own.
            return jax.tree.map(lambda new, old: jnp.where(taken, new, old).astype(old.dtype), moved, state), loss

        return jax.lax.scan(one, state, steps)

    def start(key: Any, *args: Any) -> Any:
        # A weakly typed number would become a strong one in the first block, which would then be compiled twice.
        return jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), svi.init(key, *args, **problem.kwargs)
        )

    return svi, jax.jit(start, compiler_options=QUICKLY), jax.jit(advance)


def _at_rate(state: Any, rate: Any) -> Any:
    """Return the state with the learning rate of the next step."""
    count, (values, inner) = state.optim_state
    inner = inner._replace(hyperparams={**inner.hyperparams, "learning_rate": rate})
    return state._replace(optim_state=(count, (values, inner)))
