"""Pyro behind the interface of `automatic.py`: handlers as messengers, autograd, one draw after another."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    constants,
    depth_of,
    has_value,
    log_prob,
    plates_of,
)
from latentzoo.models.language.contract import as_numpy, map_leaves
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import pyro_handle

MOST_AXES = 64  # of a tensor


class Backend:
    """Pyro: handlers as messengers, autograd, one draw after another."""

    name = "pyro"

    def __init__(self) -> None:
        self.ppl = pyro_handle()

    @contextmanager
    def precision(self, dtype: str = "float64") -> Iterator[None]:
        """Leave torch's dtype as it is: precision follows from the arrays. One thread: they are small."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def latents(self, pair: Pair, params: Arrays, fixed: Fixed, seed: int) -> dict[str, Site]:
        """Return the latent sites of the guide."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(seed):
            params = {name: self.ppl.array(leaf) for name, leaf in params.items()}
            nodes = poutine.trace(self._fixing(pair.guide, params, fixed)).get_trace(*pair.args, **pair.kwargs).nodes
        return {
            name: Site(node["fn"], node["value"], node["fn"].has_enumerate_support, plates_of(node))
            for name, node in nodes.items()
            if node["type"] == "sample" and not node["is_observed"] and type(node["fn"]).__name__ != "_Subsample"
        }

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, by TraceEnum_ELBO."""
        import pyro

        with pyro.get_param_store().scope():
            return self.elbo_in_store(pair, params, fixed)

    def elbo_in_store(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw inside an optimiser's step, whose parameters a scope of their own would spoil."""
        loss = enumerated_elbo()(max_plate_nesting=pair.max_plate_nesting, strict_enumeration_warning=False)
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
        return set(guide.param_nodes) | set(model.param_nodes), depth_of([*guide.nodes.values(), *model.nodes.values()])

    def enumerated(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Mark every discrete site for enumeration."""
        from pyro.infer import config_enumerate

        return config_enumerate(program, "parallel")

    def sampled(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Take the mark for enumeration off every site."""
        from pyro.poutine.messenger import Messenger

        class Sampled(Messenger):
            def _pyro_sample(self, msg: Any) -> None:
                msg["infer"] = {key: value for key, value in msg["infer"].items() if key != "enumerate"}

        return Sampled()(program)

    def tempered(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Scale the latent sites of the program, by a keyword of its own."""
        from pyro.poutine.messenger import Messenger

        class Tempered(Messenger):
            def __init__(self, weight: Array):
                super().__init__()
                self.weight = weight

            def _pyro_sample(self, msg: Any) -> None:
                if not msg["is_observed"]:
                    msg["scale"] = self.weight * msg["scale"]

        def run(*args: Any, latent_weight: Array, **kwargs: Any) -> Any:
            with Tempered(latent_weight):
                return program(*args, **kwargs)

        return run

    def draw(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> tuple[Arrays, Any]:
        """Run a program once from this seed."""
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(seed):
            trace = poutine.trace(program).get_trace(*args, **kwargs)
        shown = {name: node for name, node in trace.nodes.items() if has_value(node) and not _is_given(node)}
        drawn = {name: as_numpy(node["value"]).copy() for name, node in shown.items()}
        return drawn, map_leaves(lambda _, leaf: as_numpy(leaf).copy(), trace.nodes["_RETURN"]["value"])

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each site."""
        nodes = self._nodes(program, args, kwargs)
        return {name: plates_of(node) for name, node in nodes.items() if has_value(node)}

    def held(self, program: Callable[..., Any], args: tuple[Any, ...]) -> Arrays:
        """Run the program once and pick what it does not draw."""
        nodes = self._nodes(program, args, {})
        return {name: as_numpy(n["value"]).copy() for name, n in nodes.items() if has_value(n) and n["is_observed"]}

    def _nodes(self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        import pyro
        from pyro import poutine

        with pyro.get_param_store().scope(), self._seeded(0):
            return poutine.trace(program).get_trace(*args, **kwargs).nodes

    def draws(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        sites: Sequence[str],
        num_draws: int,
        seed: int,
        without: Sequence[str] = (),
    ) -> tuple[Arrays, np.ndarray]:
        """Run a program again and again."""

        def one(trace: Any) -> Arrays:
            counted = [node for node in _latent(trace).values() if not set(plates_of(node)) & set(without)]
            return {site: trace.nodes[site]["value"] for site in sites} | {LOG_PROB: log_prob(counted)}

        drawn = self._again_and_again(program, args, {}, [{}] * num_draws, seed, one)
        return {site: drawn[site] for site in sites}, drawn[LOG_PROB]

    def log_probs(self, program: Callable[..., Any], args: tuple[Any, ...], draws: Arrays) -> np.ndarray:
        """Run a program at one draw after another."""

        def one(trace: Any) -> Arrays:
            return {LOG_PROB: log_prob([trace.nodes[site] for site in draws])}

        return self._again_and_again(program, args, {}, _each(draws), 0, one)[LOG_PROB]

    def predictive(
        self, program: Callable[..., Any], args: tuple[Any, ...], num_rows: int, draws: Arrays, seed: int
    ) -> Arrays:
        """Run a program at one draw after another."""

        def one(trace: Any) -> Arrays:
            return {name: node["value"] for name, node in _latent(trace).items() if name not in draws}

        return self._again_and_again(program, args, {"num_rows": num_rows}, _each(draws), seed, one)

    def _again_and_again(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        draws: Sequence[Arrays],
        seed: int,
        one: Callable[[Any], Arrays],
    ) -> Arrays:
        """Return what `one` takes from the trace of a run with each of these draws fixed, stacked."""
        import pyro
        import torch
        from pyro import poutine

        parts = []
        with self.precision(), torch.no_grad(), pyro.get_param_store().scope(), self._seeded(seed):
            for draw in draws:
                fixed = self._fixing(program, {}, constants(draw, self.ppl))
                part = one(poutine.trace(fixed).get_trace(*args, **kwargs))
                parts.append({name: as_numpy(value).copy() for name, value in part.items()})
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def most_probable(self, program: Callable[..., Any], args: tuple[Any, ...], max_plate_nesting: int) -> Arrays:
        """Run the program by `infer_discrete` at temperature zero."""
        import pyro
        from pyro import poutine
        from pyro.infer import infer_discrete

        with self.precision(), pyro.get_param_store().scope(), self._seeded(0):
            best = infer_discrete(program, first_available_dim=-1 - max_plate_nesting, temperature=0)
            trace = poutine.trace(best).get_trace(*args)
        return {name: as_numpy(node["value"]) for name, node in _latent(trace).items() if has_value(node)}

    def at(self, program: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
        """Set the parameters in the store that the program runs in, once it has registered them there."""
        import pyro
        import torch
        from pyro import poutine

        tensors = {name: self.ppl.array(value) for name, value in values.items()}

        def run(*args: Any, **kwargs: Any) -> Any:
            store = pyro.get_param_store()
            if not set(tensors) <= set(store):
                with poutine.block(), torch.random.fork_rng(devices=[]):
                    program(*args, **kwargs)  # only the program knows what its parameters are constrained to
                for name, value in tensors.items():
                    store[name] = value
            return program(*args, **kwargs)

        return run

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


@functools.cache
def enumerated_elbo() -> Any:
    """Return Pyro's `TraceEnum_ELBO`, which says in one line when a program has more sites than torch has axes."""
    from pyro.infer import TraceEnum_ELBO

    class EnumeratedELBO(TraceEnum_ELBO):
        def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
            try:
                return super()._get_trace(model, guide, args, kwargs)
            except RuntimeError as error:
                if "tensors with up to" not in str(error):
                    raise
                raise UserError(
                    f"torch has {MOST_AXES} axes, one for each enumerated site, and this model has more sites: take a"
                    " method in closed form"
                ) from error

    return EnumeratedELBO


def _is_given(node: Any) -> bool:
    """Return whether a site was observed; Pyro has a deterministic one observed, too."""
    return node["is_observed"] and not node["infer"].get("_deterministic", False)


def _latent(trace: Any) -> dict[str, Any]:
    return {name: trace.nodes[name] for name in trace.stochastic_nodes if trace.nodes[name]["type"] == "sample"}


def _each(draws: Arrays) -> list[Arrays]:
    """Return the draws one by one."""
    return [dict(zip(draws, values, strict=True)) for values in zip(*draws.values(), strict=True)]
