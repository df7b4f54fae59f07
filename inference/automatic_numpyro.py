"""NumPyro behind the interface of `automatic.py`: effect handlers, jax.grad, many draws under one compiled vmap."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from latentzoo.inference.automatic import Array, Arrays, Elbos, Fix, Fixed, Pair, Site, depth_of, plates_of
from latentzoo.models.language.contract import as_numpy, map_leaves
from latentzoo.models.language.ppl import numpyro_handle

# What is run a few times only takes longest to compile, so XLA is told not to optimise it.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Backend:
    """NumPyro: effect handlers, jax.grad, many draws at once under one compiled vmap."""

    name = "numpyro"

    def __init__(self) -> None:
        self.ppl = numpyro_handle()

    def precision(self) -> AbstractContextManager[Any]:
        """Switch JAX to float64 inside the context, never globally."""
        import jax

        return jax.enable_x64(True)

    def latents(self, pair: Pair, params: Arrays, fixed: Fixed, seed: int) -> dict[str, Site]:
        """Return the latent sites of the guide."""
        import jax
        from numpyro import handlers

        params = {name: self.ppl.array(leaf) for name, leaf in params.items()}
        guide = handlers.substitute(self._fixing(pair.guide, fixed), data=params)
        trace = handlers.trace(handlers.seed(guide, jax.random.PRNGKey(seed))).get_trace(*pair.args, **pair.kwargs)
        return {
            name: Site(site["fn"], site["value"], site["fn"].has_enumerate_support, plates_of(site))
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, by TraceEnum_ELBO."""
        import jax
        from numpyro.infer import TraceEnum_ELBO

        loss = TraceEnum_ELBO(max_plate_nesting=pair.max_plate_nesting)
        guide = self._fixing(pair.guide, fixed)
        return -loss.loss(jax.random.PRNGKey(0), params, pair.model, guide, *pair.args, **pair.kwargs)

    def value_and_gradient(self, function: Callable[[Arrays], Array], params: Arrays) -> tuple[float, Arrays]:
        """Return the value and the gradient."""
        import jax

        value, gradient = jax.value_and_grad(function)({name: self.ppl.array(leaf) for name, leaf in params.items()})
        return float(value), {name: np.asarray(leaf) for name, leaf in gradient.items()}

    def elbos(self, pair: Pair, fix: Fix) -> Elbos:
        """Return the function of the nodes: compiled once, for batches of a fixed length (the last one padded)."""
        import jax

        def weighted(params: Arrays, nodes: Arrays, weights: Array) -> tuple[Array, Array]:
            values = jax.vmap(lambda node: self.elbo(pair, params, fix(node, self.ppl)), axis_size=len(weights))(nodes)
            return (weights * values).sum(), values

        compiled = jax.jit(jax.value_and_grad(weighted, has_aux=True), compiler_options=QUICKLY)
        length = 16

        def at_nodes(params: Arrays, nodes: Sequence[Arrays], weights: np.ndarray) -> tuple[np.ndarray, Arrays]:
            padded = [*nodes, *[nodes[-1]] * (-len(nodes) % length)]
            weights = np.concatenate([weights, np.zeros(len(padded) - len(nodes))])
            found: list[np.ndarray] = []
            total: Arrays = dict.fromkeys(params, 0.0)
            for start in range(0, len(padded), length):
                batch = padded[start : start + length]
                stacked = {site: np.stack([node[site] for node in batch]) for site in batch[0]}
                (_, values), gradient = compiled(params, stacked, weights[start : start + length])
                found.append(np.asarray(values))
                total = {name: total[name] + np.asarray(gradient[name]) for name in params}
            return np.concatenate(found)[: len(nodes)], total

        return at_nodes

    def double_constants(self) -> AbstractContextManager[Any]:
        """Do nothing: `precision` does it."""
        return nullcontext()

    def inspect(self, pair: Pair) -> tuple[set[str], int]:
        """Return the names of the parameters of both programs, and the depth of their plates."""
        from numpyro import handlers

        guide = handlers.trace(handlers.seed(pair.guide, 0)).get_trace(*pair.args, **pair.kwargs)
        model = handlers.seed(handlers.replay(pair.model, guide), 0)
        sites = {**guide, **handlers.trace(model).get_trace(*pair.args, **pair.kwargs)}
        return {name for name, site in sites.items() if site["type"] == "param"}, depth_of(list(sites.values()))

    def enumerated(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Mark every discrete site for enumeration."""
        from numpyro.contrib.funsor import config_enumerate

        return config_enumerate(program, "parallel")

    def draw(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> tuple[Arrays, Any]:
        """Run a program once from this seed."""
        import jax

        with self.precision():
            drawn, returned = _compiled_run(program, tuple(kwargs.items()))(jax.random.PRNGKey(seed), *args)
        copy = map_leaves(lambda _, leaf: as_numpy(leaf).copy(), returned)
        return {name: as_numpy(value).copy() for name, value in drawn.items()}, copy

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each sample site."""
        import jax
        from numpyro import handlers

        with self.precision(), handlers.trace() as trace, handlers.seed(rng_seed=0):
            jax.eval_shape(lambda: program(*args, **kwargs))  # nothing is computed
        return {name: plates_of(site) for name, site in trace.items() if site["type"] == "sample"}

    def draws(
        self, program: Callable[..., Any], args: tuple[Any, ...], sites: Sequence[str], num_draws: int, seed: int
    ) -> Arrays:
        """Run a program for many keys at once, in batches of a length that is compiled once."""
        import jax

        batch = 100
        with self.precision():
            keys = jax.random.split(jax.random.PRNGKey(seed), num_draws + -num_draws % batch)
            run = _compiled_draws(program, tuple(sites))
            parts = [run(keys[start : start + batch], *args) for start in range(0, num_draws, batch)]
            return {site: np.concatenate([as_numpy(part[site]) for part in parts])[:num_draws] for site in sites}

    @staticmethod
    def _fixing(program: Callable[..., Any], fixed: Fixed) -> Callable[..., Any]:
        from numpyro import handlers

        def substitute(site: Any) -> Array | None:
            if site["type"] == "sample" and not site["is_observed"] and site["name"] in fixed:
                return fixed[site["name"]](site["fn"])
            return None

        return handlers.substitute(program, substitute_fn=substitute)


@functools.lru_cache(maxsize=16)
def _compiled_run(program: Callable[..., Any], kwargs: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """Return the compiled function (key, *args) -> (values of the latent sites, what the program returned)."""
    import jax
    from numpyro import handlers

    def run(key: Array, *args: Any) -> tuple[Arrays, Any]:
        with handlers.trace() as trace, handlers.seed(rng_seed=key):
            returned = program(*args, **dict(kwargs))
        sites = {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
        return {name: site["value"] for name, site in sites.items()}, returned

    return jax.jit(run, compiler_options=QUICKLY)


@functools.lru_cache(maxsize=16)
def _compiled_draws(program: Callable[..., Any], sites: tuple[str, ...]) -> Callable[..., Arrays]:
    """Return the compiled function of many keys and the arguments of a NumPyro program."""
    import jax
    from numpyro import handlers

    def one(key: Array, *args: Any) -> Arrays:
        trace = handlers.trace(handlers.seed(program, key)).get_trace(*args)
        return {site: trace[site]["value"] for site in sites}

    return jax.jit(lambda keys, *args: jax.vmap(lambda key: one(key, *args))(keys), compiler_options=QUICKLY)
