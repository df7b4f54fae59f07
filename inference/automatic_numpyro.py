"""NumPyro behind the interface of `automatic.py`: effect handlers, jax.grad, many draws under one compiled vmap."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from latentzoo.inference.automatic import (
    LOG_PROB,
    Array,
    Arrays,
    Elbos,
    Fix,
    Fixed,
    Pair,
    Site,
    depth_of,
    has_value,
    log_prob,
    num_draws,
    plates_of,
)
from latentzoo.models.language.contract import as_numpy, map_leaves
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import numpyro_handle

# What is run a few times only takes longest to compile, so XLA is told not to optimise it.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
BATCH = 100
MOST_ENUMERATED = 24  # sites: NumPyro 0.22 has no axes for more
# (keys, values of sites, *arguments of the program) -> values by name, each with an axis of as many as there are keys.
Vectorised = Callable[..., Arrays]


class Backend:
    """NumPyro: effect handlers, jax.grad, many draws at once under one compiled vmap."""

    name = "numpyro"

    def __init__(self) -> None:
        self.ppl = numpyro_handle()

    def precision(self, dtype: str = "float64") -> AbstractContextManager[Any]:
        """Switch JAX to float64 inside the context, or to float32, never globally."""
        import jax

        return jax.enable_x64(dtype == "float64")

    def latents(self, pair: Pair, params: Arrays, fixed: Fixed, seed: int) -> dict[str, Site]:
        """Return the latent sites of the guide."""
        import jax
        from numpyro import handlers

        params = {name: self.ppl.array(leaf) for name, leaf in params.items()}
        guide = handlers.substitute(self._fixing(pair.guide, fixed), data=params)
        trace = handlers.trace(handlers.seed(guide, jax.random.PRNGKey(seed))).get_trace(*pair.args, **pair.kwargs)
        return {
            name: Site(site["fn"], site["value"], site["fn"].has_enumerate_support, plates_of(site))
            for name, site in _latent(trace).items()
        }

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, by TraceEnum_ELBO."""
        import jax

        loss = enumerated_elbo()(max_plate_nesting=pair.max_plate_nesting)
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

    def sampled(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Take the mark for enumeration off every site."""
        from numpyro.primitives import Messenger

        class Sampled(Messenger):
            def process_message(self, msg: Any) -> None:
                if msg["type"] == "sample":
                    msg["infer"] = {key: value for key, value in msg["infer"].items() if key != "enumerate"}

        return Sampled(program)

    def tempered(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Scale the latent sites of the program, by a keyword of its own."""
        from numpyro.primitives import Messenger

        class Tempered(Messenger):
            def __init__(self, weight: Array):
                super().__init__(None)
                self.weight = weight

            def process_message(self, msg: Any) -> None:
                if msg["type"] == "sample" and not msg["is_observed"]:
                    msg["scale"] = self.weight if msg["scale"] is None else self.weight * msg["scale"]

        def run(*args: Any, latent_weight: Array, **kwargs: Any) -> Any:
            with Tempered(latent_weight):
                return program(*args, **kwargs)

        return run

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
        """Return the plates around each site."""
        import jax
        from numpyro import handlers

        with self.precision(), handlers.trace() as trace, handlers.seed(rng_seed=0):
            jax.eval_shape(lambda: program(*args, **kwargs))  # nothing is computed
        return {name: plates_of(site) for name, site in trace.items() if has_value(site)}

    def held(self, program: Callable[..., Any], args: tuple[Any, ...]) -> Arrays:
        """Run the program once and pick what it does not draw."""
        with self.precision():
            trace = _trace(program, 0, {}, args)
            latent = _latent(trace)
            return {name: as_numpy(s["value"]) for name, s in trace.items() if has_value(s) and name not in latent}

    def draws(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        sites: Sequence[str],
        num_draws: int,
        seed: int,
        without: Sequence[str] = (),
    ) -> tuple[Arrays, np.ndarray]:
        """Run a program for many keys at once."""
        run = _compiled_draws(program, tuple(sites), tuple(without))
        drawn = self._in_batches(run, {}, args, num_draws, seed)
        return {site: drawn[site] for site in sites}, drawn[LOG_PROB]

    def log_probs(self, program: Callable[..., Any], args: tuple[Any, ...], draws: Arrays) -> np.ndarray:
        """Run a program at many draws at once."""
        return self._in_batches(_compiled_log_probs(program), draws, args, num_draws(draws), seed=0)[LOG_PROB]

    def predictive(
        self, program: Callable[..., Any], args: tuple[Any, ...], num_rows: int, draws: Arrays, seed: int
    ) -> Arrays:
        """Run a program at many draws at once."""
        return self._in_batches(_compiled_predictive(program, num_rows), draws, args, num_draws(draws), seed)

    def _in_batches(
        self, run: Callable[..., Arrays], draws: Arrays, args: tuple[Any, ...], num_draws: int, seed: int
    ) -> Arrays:
        """Run a compiled function of keys and draws in batches of a length that is compiled once."""
        import jax

        with self.precision():
            pad = -num_draws % BATCH
            keys = jax.random.split(jax.random.PRNGKey(seed), num_draws + pad)
            padded = {site: np.concatenate([values, values[:1].repeat(pad, 0)]) for site, values in draws.items()}
            parts = []
            for start in range(0, num_draws, BATCH):
                here = slice(start, start + BATCH)
                part = run(keys[here], {site: values[here] for site, values in padded.items()}, *args)
                parts.append({name: as_numpy(value) for name, value in part.items()})
            return {name: np.concatenate([part[name] for part in parts])[:num_draws] for name in parts[0]}

    def most_probable(self, program: Callable[..., Any], args: tuple[Any, ...], max_plate_nesting: int) -> Arrays:
        """Run the program by `infer_discrete` at temperature zero."""
        import jax
        from numpyro import handlers
        from numpyro.contrib.funsor import infer_discrete

        def run() -> Arrays:
            key = jax.random.PRNGKey(0)
            best = infer_discrete(_singles()(program), -1 - max_plate_nesting, temperature=0, rng_key=key)
            trace = handlers.trace(handlers.seed(best, key)).get_trace(*args)
            return {name: site["value"] for name, site in _latent(trace).items() if has_value(site)}

        with self.precision():
            return {name: as_numpy(value) for name, value in jax.jit(run, compiler_options=QUICKLY)().items()}

    def at(self, program: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
        """Substitute the values of its `param` sites."""
        from numpyro import handlers

        def substitute(site: Any) -> Array | None:
            return self.ppl.array(values[site["name"]]) if site["type"] == "param" and site["name"] in values else None

        return handlers.substitute(program, substitute_fn=substitute)

    @staticmethod
    def _fixing(program: Callable[..., Any], fixed: Fixed) -> Callable[..., Any]:
        from numpyro import handlers

        def substitute(site: Any) -> Array | None:
            if site["type"] == "sample" and not site["is_observed"] and site["name"] in fixed:
                value = fixed[site["name"]](site["fn"])
                site["fn"] = _as_constant(site["fn"])
                return value
            return None

        return handlers.substitute(program, substitute_fn=substitute)


def _as_constant(distribution: Any) -> Any:
    """Return the distribution of a site that is not drawn, so that an ELBO adds no score function for it.

    NumPyro cannot reparametrise all families, such as Wishart, and would sample those anew to see what depends on them.
    """
    if distribution.has_rsample:
        return distribution
    same, kind = copy.copy(distribution), distribution.__class__
    same.__class__ = _constant(kind)
    return same


@functools.cache
def _constant(kind: Any) -> type:
    return type(kind.__name__, (kind,), {"has_rsample": True})


@functools.cache
def _singles() -> Any:
    """Return a handler of programs that are to be enumerated, for dimensions of size one.

    NumPyro 0.22 gives such a dimension no name and then fails on it: a plate of one component, one row, a site of one
    state. The batch of a site that is all ones becomes an event, and a single state is not enumerated: the log
    probabilities are the same.
    """
    from numpyro.primitives import Messenger

    class Singles(Messenger):
        def process_message(self, msg: Any) -> None:
            if msg["type"] != "sample":
                return
            if "enumerate" in msg["infer"] and len(msg["fn"].enumerate_support(expand=False)) == 1:
                msg["infer"] = {key: value for key, value in msg["infer"].items() if key != "enumerate"}
            shape = msg["fn"].batch_shape
            if "enumerate" not in msg["infer"] and shape and set(shape) == {1}:
                msg["fn"] = msg["fn"].to_event(len(shape))

    return Singles


@functools.cache
def enumerated_elbo() -> Any:
    """Return NumPyro's `TraceEnum_ELBO`, mended where a dimension has size one."""
    from numpyro.infer import TraceEnum_ELBO

    single = _singles()

    class EnumeratedELBO(TraceEnum_ELBO):
        def loss(self, rng_key: Any, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().loss(rng_key, param_map, single(model), single(guide), *args, **kwargs)
            except ValueError as error:
                if "Ran out of free dims" not in str(error):
                    raise
                raise UserError(
                    f"NumPyro has axes for {MOST_ENUMERATED} enumerated sites, and this model has more: take"
                    " library='pyro', or a method in closed form"
                ) from error

    return EnumeratedELBO


@functools.lru_cache(maxsize=16)
def _compiled_run(program: Callable[..., Any], kwargs: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """Return the compiled function (key, *args) -> (values of its sites but the observed, what it returned)."""
    import jax
    from numpyro import handlers

    def run(key: Array, *args: Any) -> tuple[Arrays, Any]:
        with handlers.trace() as trace, handlers.seed(rng_seed=key):
            returned = program(*args, **dict(kwargs))
        drawn = {name: site["value"] for name, site in trace.items() if not site.get("is_observed") and has_value(site)}
        return drawn, returned

    return jax.jit(run, compiler_options=QUICKLY)


@functools.lru_cache(maxsize=16)
def _compiled_draws(program: Callable[..., Any], sites: tuple[str, ...], without: tuple[str, ...]) -> Vectorised:
    """Return the compiled draws of a NumPyro program, with their log density."""

    def one(key: Array, _: Arrays, *args: Any) -> Arrays:
        trace = _trace(program, key, {}, args)
        counted = [site for site in _latent(trace).values() if not set(plates_of(site)) & set(without)]
        return {site: trace[site]["value"] for site in sites} | {LOG_PROB: log_prob(counted)}

    return _vectorised(one)


@functools.lru_cache(maxsize=16)
def _compiled_log_probs(program: Callable[..., Any]) -> Vectorised:
    """Return the compiled log density of some sites of a NumPyro program at given values."""

    def one(key: Array, values: Arrays, *args: Any) -> Arrays:
        trace = _trace(program, key, values, args)
        return {LOG_PROB: log_prob([trace[site] for site in values])}

    return _vectorised(one)


@functools.lru_cache(maxsize=16)
def _compiled_predictive(program: Callable[..., Any], num_rows: int) -> Vectorised:
    """Return the compiled run of a NumPyro program with some sites at given values."""

    def one(key: Array, values: Arrays, *args: Any) -> Arrays:
        trace = _trace(program, key, values, args, num_rows=num_rows)
        return {name: site["value"] for name, site in _latent(trace).items() if name not in values}

    return _vectorised(one)


def _trace(program: Callable[..., Any], key: Array, values: Arrays, args: Any, **kwargs: Any) -> Any:
    from numpyro import handlers

    seeded = handlers.seed(handlers.substitute(program, data=values), key)
    return handlers.trace(seeded).get_trace(*args, **kwargs)


def _latent(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


def _vectorised(one: Callable[..., Arrays]) -> Vectorised:
    """Compile the function of one key and one draw for many of both."""
    import jax

    def many(keys: Array, draws: Arrays, *args: Any) -> Arrays:
        return jax.vmap(lambda key, values: one(key, values, *args))(keys, draws)

    return jax.jit(many, compiler_options=QUICKLY)
