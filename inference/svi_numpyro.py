"""NumPyro's SVI in blocks of steps, each a loop that is compiled once: `SVI.run` costs several times that."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from latentzoo.inference.automatic import backend
from latentzoo.inference.automatic_numpyro import QUICKLY
from latentzoo.inference.svi import Block, Problem, Start, check_state
from latentzoo.models.language.contract import Params, as_numpy, take_rows


class Stepper:
    """SVI from one start."""

    def __init__(self, problem: Problem, begin: Start):
        import jax

        self._auto, self._dtype, self._block = backend("numpyro"), problem.dtype, begin.block
        with self._precision():
            self._svi, start, self._advance = _compiled(problem)
            data, *self._others = map(self._auto.ppl.arrays, begin.args)
            self._data = data if problem.total_rows is None else None
            self._state = start(jax.random.PRNGKey(begin.seed), data, *self._others)
            if begin.state is not None:
                self._restore(begin.state)

    def advance(self, block: Block) -> Any:
        """Begin to take the steps; behind their losses, where the block is not full, are zeros."""
        with self._precision():
            rates, weights = (np.resize(each, self._block).astype(self._dtype) for each in (block.rates, block.weights))
            steps = rates, weights, np.int32(len(block.rates))
            self._state, losses = self._advance(self._state, steps, block.batches, self._data, *self._others)
            return losses

    def values(self) -> dict[str, np.ndarray]:
        """Return the constrained value of each `param` site."""
        with self._precision():
            return {name: as_numpy(value) for name, value in self._svi.get_params(self._state).items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return the leaves of the state, numbered."""
        import jax

        return {f"numpyro.{index}": as_numpy(leaf) for index, leaf in enumerate(jax.tree.leaves(self._state))}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        import jax

        leaves, tree = jax.tree.flatten(self._state)
        names = [f"numpyro.{index}" for index in range(len(leaves))]
        check_state(state, dict(zip(names, leaves, strict=True)))
        self._state = jax.tree.unflatten(tree, [self._auto.ppl.array(state[name]) for name in names])

    def _precision(self) -> AbstractContextManager[Any]:
        return self._auto.precision(self._dtype)


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
    model, guide = problem.programs("numpyro")
    svi = SVI(model, guide if problem.estimator is None else loss.remembering(guide), transformation, loss)

    def advance(state: Any, steps: Any, batches: Any, data: Any, prior: Any, params: Params) -> Any:
        rates, weights, number = steps

        def one(index: Any, found: Any) -> Any:
            state, losses = found
            batch = data if batches is None else take_rows(batches, index)
            keywords = problem.keywords(weights[index])
            moved, loss = svi.update(_at_rate(state, rates[index]), batch, prior, params, **keywords)
            # The guide of a user may mix precisions: each number of the state keeps its own.
            state = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state)
            return state, losses.at[index].set(loss.astype(losses.dtype))

        return jax.lax.fori_loop(0, number, one, (state, jnp.zeros_like(rates)))

    def start(key: Any, *args: Any) -> Any:
        # A weakly typed number would become a strong one in the first block, which would then be compiled twice.
        return jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), svi.init(key, *args, **problem.keywords(1.0))
        )

    return svi, jax.jit(start, compiler_options=QUICKLY), jax.jit(advance)


def _at_rate(state: Any, rate: Any) -> Any:
    """Return the state with the learning rate of the next step."""
    count, (values, inner) = state.optim_state
    inner = inner._replace(hyperparams={**inner.hyperparams, "learning_rate": rate})
    return state._replace(optim_state=(count, (values, inner)))
