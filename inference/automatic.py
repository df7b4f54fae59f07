"""The libraries' own ELBO: its value and gradient at given parameters and given draws of the guide.

One backend for each library, behind one interface, so that what is built on it (proofs, estimators, posterior draws) is
written once. Parameters are handed in by name and values of latent sites by a function of their distribution; the
user's parameter store is neither read nor written.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np

from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import LIBRARIES, Handle, numpyro_handle, pyro_handle

Array = Any
Arrays = dict[str, Any]
# The value of a latent site, as a function of its distribution: a constant, or noise pushed through loc and scale.
Fixed = Mapping[str, Callable[[Any], Array]]


# (params, nodes, weights) -> (ELBO at each node, gradient of their weighted sum), all of NumPy.
Elbos = Callable[[Arrays, Sequence[Arrays], np.ndarray], tuple[np.ndarray, Arrays]]

# What is run a few times only takes longest to compile, so XLA is told not to optimise it.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Pair(NamedTuple):
    """A model and a guide of one library, with the arguments that both are called with."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    max_plate_nesting: float = float("inf")


class Site(NamedTuple):
    """A latent site of a program, as it was drawn."""

    distribution: Any
    value: Array
    discrete: bool
    plates: tuple[str, ...]


class Backend(Protocol):
    """What a library must do for us; arrays are the library's own unless they are said to be NumPy's."""

    name: str
    ppl: Handle

    def precision(self) -> AbstractContextManager[Any]:
        """Open a context in which floats are float64."""

    def latents(
        self, program: Callable[..., Any], pair: Pair, params: Arrays, fixed: Fixed, seed: int
    ) -> dict[str, Site]:
        """Return the latent sites of a program of the pair."""

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, its discrete sites enumerated, differentiable in `params`."""

    def value_and_gradient(self, function: Callable[[Arrays], Array], params: Arrays) -> tuple[float, Arrays]:
        """Return a scalar function of the parameters and its gradient, as NumPy arrays."""

    def elbos(self, pair: Pair, fix: "Fix") -> Elbos:
        """Return a function (params, nodes, weights) -> (ELBO at each node, gradient of their weighted sum).

        fix: what a node holds, `constants` (values of latent sites) or `pushed` (noise).
        """

    def double_constants(self) -> AbstractContextManager[Any]:
        """Open a context in which the numbers that a user's program writes out are float64, too."""

    def inspect(self, pair: Pair) -> tuple[set[str], int]:
        """Return the names of the parameters that the pair registers, and how deep its plates are nested."""

    def enumerated(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return the program with every discrete site of finite support marked for enumeration."""

    def draw(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> tuple[Arrays, Any]:
        """Run a program once; return the values of its sample sites, and what it returned, as NumPy arrays."""

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each sample site, the outermost first."""

    def draws(
        self, program: Callable[..., Any], args: tuple[Any, ...], sites: Sequence[str], num_draws: int, seed: int
    ) -> Arrays:
        """Return many draws of some sites of a program, stacked, as NumPy arrays."""


class Fix(Protocol):
    """A way to fix latent sites from the arrays of a node."""

    def __call__(self, node: Mapping[str, Any], ppl: Handle, /) -> Fixed:
        """Return the value of each site as a function of its distribution."""


def constants(values: Mapping[str, Any], ppl: Handle) -> Fixed:
    """Return the functions that give sites these values, whatever their distribution."""
    return {name: functools.partial(lambda value, _: value, ppl.array(value)) for name, value in values.items()}


def pushed(noise: Mapping[str, Any], ppl: Handle) -> Fixed:
    """Return the functions that push standard normal noise through the location and scale of each site."""

    def push(eps: Array, distribution: Any) -> Array:
        normal = base(distribution)
        if type(normal).__name__ != "Normal":
            raise UserError(f"noise was given for a site that is {type(normal).__name__}: only a Normal takes it")
        return normal.loc + normal.scale * eps

    return {name: functools.partial(push, ppl.array(eps)) for name, eps in noise.items()}


def base(distribution: Any) -> Any:
    """Return the distribution inside the wrappers that only move its batch and event dimensions."""
    while type(distribution).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        distribution = distribution.base_dist
    return distribution


@functools.cache
def backend(library: str) -> Backend:
    """Return the backend of a library, importing it at the first call."""
    made: dict[str, Callable[[], Backend]] = {"pyro": PyroBackend, "numpyro": NumPyroBackend}
    return made[choose(library, LIBRARIES, "library")]()


class PyroBackend:
    """Pyro: handlers as messengers, autograd, one draw after another."""

    name = "pyro"

    def __init__(self) -> None:
        self.ppl = pyro_handle()

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Leave torch's dtype as it is: precision follows from the arrays. One thread: the arrays are tiny."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def latents(
        self, program: Callable[..., Any], pair: Pair, params: Arrays, fixed: Fixed, seed: int
    ) -> dict[str, Site]:
        """Return the latent sites of a program of the pair."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(seed):
            nodes = poutine.trace(self._fixing(program, params, fixed)).get_trace(*pair.args, **pair.kwargs).nodes
        return {
            name: Site(node["fn"], node["value"], node["fn"].has_enumerate_support, _plates(node))
            for name, node in nodes.items()
            if node["type"] == "sample" and not node["is_observed"] and type(node["fn"]).__name__ != "_Subsample"
        }

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, by TraceEnum_ELBO."""
        import pyro
        from pyro.infer import TraceEnum_ELBO

        loss = TraceEnum_ELBO(max_plate_nesting=pair.max_plate_nesting, strict_enumeration_warning=False)
        with pyro.get_param_store().scope():
            model, guide = self._fixing(pair.model, params, {}), self._fixing(pair.guide, params, fixed)
            return -loss.differentiable_loss(model, guide, *pair.args, **pair.kwargs)

    def value_and_gradient(self, function: Callable[[Arrays], Array], params: Arrays) -> tuple[float, Arrays]:
        """Return the value and the gradient, zero where a parameter does not enter."""
        import torch

        leaves = {name: self.ppl.array(value).detach().clone().requires_grad_() for name, value in params.items()}
        value = function(leaves)
        if not value.requires_grad:
            return float(value), {name: np.zeros(np.shape(leaf)) for name, leaf in params.items()}
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return value.item(), {
            name: np.zeros(leaf.shape) if gradient is None else gradient.numpy()
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }

    def elbos(self, pair: Pair, fix: Fix) -> Elbos:
        """Return the function of the nodes, which runs the pair at one after another."""

        def at_nodes(params: Arrays, nodes: Sequence[Arrays], weights: np.ndarray) -> tuple[np.ndarray, Arrays]:
            values: list[float] = []

            def weighted(leaves: Arrays) -> Array:
                terms = [self.elbo(pair, leaves, fix(node, self.ppl)) for node in nodes]
                values.extend(term.item() for term in terms)
                return sum(weight * term for weight, term in zip(weights.tolist(), terms, strict=True))

            _, gradient = self.value_and_gradient(weighted, params)
            return np.array(values), gradient

        return at_nodes

    @contextmanager
    def double_constants(self) -> Iterator[None]:
        """Set torch's default dtype, and give the user's back."""
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def inspect(self, pair: Pair) -> tuple[set[str], int]:
        """Return the names of the parameters of both programs, and the depth of their plates."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(0):
            guide = poutine.trace(pair.guide).get_trace(*pair.args, **pair.kwargs)
            model = poutine.trace(poutine.replay(pair.model, guide)).get_trace(*pair.args, **pair.kwargs)
        return set(guide.param_nodes) | set(model.param_nodes), _depth([*guide.nodes.values(), *model.nodes.values()])

    def enumerated(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Mark every discrete site for enumeration."""
        from pyro.infer import config_enumerate

        return config_enumerate(program, "parallel")

    def draw(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> tuple[Arrays, Any]:
        """Run a program once from this seed."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(seed):
            trace = poutine.trace(program).get_trace(*args, **kwargs)
        sites = {name: node["value"] for name, node in trace.nodes.items() if node["type"] == "sample"}
        drawn = {name: as_numpy(value) for name, value in sites.items() if name in trace.stochastic_nodes}
        return drawn, contract.map_leaves(lambda _, leaf: as_numpy(leaf), trace.nodes["_RETURN"]["value"])

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each sample site."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(0):
            nodes = poutine.trace(program).get_trace(*args, **kwargs).nodes
        return {name: _plates(node) for name, node in nodes.items() if node["type"] == "sample"}

    def draws(
        self, program: Callable[..., Any], args: tuple[Any, ...], sites: Sequence[str], num_draws: int, seed: int
    ) -> Arrays:
        """Run a program again and again from this seed."""
        seeds = np.random.SeedSequence(seed).generate_state(num_draws)
        runs = [self.draw(program, args, {}, int(each))[0] for each in seeds]
        return {site: np.stack([run[site] for run in runs]) for site in sites}

    @staticmethod
    @contextmanager
    def _seeded(seed: int) -> Iterator[None]:
        """Seed torch, and give the user's random state back."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    @staticmethod
    def _fixing(program: Callable[..., Any], params: Arrays, fixed: Fixed) -> Callable[..., Any]:
        """Return the program with its parameters and some of its latent values set from outside."""
        from pyro.poutine.messenger import Messenger

        class Fix(Messenger):
            def _pyro_param(self, msg: Any) -> None:
                msg["value"] = params.get(msg["name"], msg["value"])

            def _pyro_sample(self, msg: Any) -> None:
                if msg["name"] in fixed and not msg["is_observed"] and msg["value"] is None:
                    msg["value"] = fixed[msg["name"]](msg["fn"])

        return Fix()(program)


class NumPyroBackend:
    """NumPyro: effect handlers, jax.grad, many draws at once under one compiled vmap."""

    name = "numpyro"

    def __init__(self) -> None:
        self.ppl = numpyro_handle()

    def precision(self) -> AbstractContextManager[Any]:
        """Switch JAX to float64 inside the context, never globally."""
        import jax

        return jax.enable_x64(True)

    def latents(
        self, program: Callable[..., Any], pair: Pair, params: Arrays, fixed: Fixed, seed: int
    ) -> dict[str, Site]:
        """Return the latent sites of a program of the pair."""
        import jax
        from numpyro import handlers

        program = handlers.substitute(self._fixing(program, fixed), data=params)
        trace = handlers.trace(handlers.seed(program, jax.random.PRNGKey(seed))).get_trace(*pair.args, **pair.kwargs)
        return {
            name: Site(site["fn"], site["value"], site["fn"].has_enumerate_support, _plates(site))
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
        return {name for name, site in sites.items() if site["type"] == "param"}, _depth(list(sites.values()))

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
        copy = contract.map_leaves(lambda _, leaf: as_numpy(leaf), returned)
        return {name: as_numpy(value) for name, value in drawn.items()}, copy

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each sample site."""
        import jax
        from numpyro import handlers

        with self.precision(), handlers.trace() as trace, handlers.seed(rng_seed=0):
            jax.eval_shape(lambda: program(*args, **kwargs))  # nothing is computed
        return {name: _plates(site) for name, site in trace.items() if site["type"] == "sample"}

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


def _plates(site: Any) -> tuple[str, ...]:
    """Return the names of the plates around a site, the outermost (leftmost) first."""
    return tuple(frame.name for frame in sorted(site["cond_indep_stack"], key=lambda frame: frame.dim))


def _depth(sites: Sequence[Any]) -> int:
    """Return how many batch dimensions the plates around these sites take."""
    frames = [frame for site in sites if site["type"] == "sample" for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.dim is not None), default=0)


def as_numpy(value: Any) -> np.ndarray:
    """Return a library's array as one of NumPy, a copy."""
    return value.detach().cpu().numpy().copy() if hasattr(value, "detach") else np.array(value)


def graph(model: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the plate diagram of a NumPyro model as a `graphviz` graph.

    Raises
    ------
    UserError: the Python package graphviz is not installed.
    """
    from numpyro.infer.inspect import render_model

    try:
        return render_model(model, model_args=args)
    except ImportError as error:
        raise UserError("drawing a graph needs the Python package graphviz: pip install 'latentzoo[graph]'") from error
