"""Pyro behind the interface of `particles.py`: particles as an outermost plate; and the loss that its SVI calls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.poutine.messenger import Messenger

from latentzoo.inference import particles
from latentzoo.inference.automatic import Array, Arrays, Pair, backend, base, constants, push
from latentzoo.inference.automatic_pyro import Backend
from latentzoo.inference.particles import (
    Draws,
    Estimator,
    Plan,
    Relaxation,
    Term,
    Terms,
    dreaming,
    mean_log_prob,
    relaxed_shape,
    relaxes,
)

PLATE = "_particles"


class Particles(particles.Particles):
    """Draws of a pair of Pyro programs at given parameters, which are tensors."""

    def __init__(self, plan: Plan, params: Arrays, noise: Mapping[str, Array] | None = None):
        """Draw with torch's random numbers, or with this standard normal noise (particles, *shape), where given."""
        super().__init__("pyro", plan, params)
        self._noise = {name: torch.as_tensor(np.asarray(eps)) for name, eps in (noise or {}).items()}
        self._depth: dict[str, int] = {}  # of the draw of one particle: the axes of its plates and of its event

    def draw(self, relaxation: Relaxation | None = None) -> Draws:
        """Draw every latent site from the guide."""
        return self._weighed(_Fix(self._params, self._frozen, {}, self._noise, relaxation))

    def at(self, values: Arrays) -> Draws:
        """Return the log densities at these values."""
        return self._weighed(_Fix(self._params, self._frozen, values))

    def guide_at(self, values: Arrays) -> Terms:
        """Return the log densities of the guide's latent sites alone at these values."""
        _, terms, _ = self._of_guide(_Fix(self._params, self._frozen, values))
        return {name: term for name, term in terms.items() if name in values}

    def summed_out(self, values: Arrays) -> Array:
        """Return the bound at each draw of the continuous sites, one after another."""
        found, auto = [], cast(Backend, self._auto)
        for index in range(self.num_particles):
            one = {name: _last_axes(value[index], self._depth[name]) for name, value in values.items()}
            with poutine.block():
                found.append(auto.elbo_in_store(self._plan.pair, self._params, constants(one, self.ppl)))
        return torch.stack(found)

    def jacobians(self, function: Callable[[particles.Particles], Array], num_draws: int) -> Arrays:
        """Return the gradients at draws of their own, one after another."""
        names, leaves = list(self._params), list(self._params.values())
        found = []
        for _ in range(num_draws):
            with torch.enable_grad():  # also where only the value of a loss is asked for
                numbers = function(Particles(self._plan._replace(num_particles=1), self._params))
                rows = [
                    torch.autograd.grad(number, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
                    for number in numbers
                ]
            found.append([torch.stack(column) for column in zip(*rows, strict=True)])
        columns = zip(*found, strict=True)
        return {name: torch.stack(column) for name, column in zip(names, columns, strict=True)}

    def dreamt(self) -> Draws:
        """Draw rows and their latent sites from the model, one particle after another."""
        pair, found = self._plan.pair, []
        for _ in range(self.num_particles):
            with poutine.block(), torch.no_grad():
                dream = poutine.trace(_Fix(self._params)(dreaming(pair.model))).get_trace(*pair.args, **pair.kwargs)
            drawn = {name: site["value"] for name, site in _sites(dream).items()}
            fixed = _Fix(self._params, self._frozen, drawn)(pair.guide)
            with poutine.block():
                data = dream.nodes["_RETURN"]["value"]
                guide = poutine.trace(fixed).get_trace(data, *pair.args[1:], **pair.kwargs)
            found.append(({name: drawn[name] for name in _latent(guide)}, self._terms(guide, {}, num_particles=1)))
        terms = {
            name: term._replace(log_prob=torch.cat([each[name].log_prob for _, each in found]))
            for name, term in found[0][1].items()
        }
        values = {name: torch.stack([each[name] for each, _ in found]) for name in found[0][0]}
        return Draws(values, terms, {}, frozenset())

    def _weighed(self, fix: "_Fix") -> Draws:
        """Run guide and model, all particles at once."""
        values, guide, summed = self._of_guide(fix)
        differentiable = frozenset(fix.differentiable & set(values))
        if summed:
            return Draws(values, guide, {}, differentiable)
        model = self._trace(_Fix(self._params, values=values), self._plan.pair.model)
        if set(_latent(model)) - set(values):  # summed out in the model
            return Draws(values, guide, {}, differentiable)
        return Draws(values, guide, self._terms(model, fix.relaxed), differentiable)

    def _of_guide(self, fix: "_Fix") -> tuple[Arrays, dict[str, Term], bool]:
        """Return the values of the latent sites, the terms of the guide, and whether it has sites to be summed out.

        Those have neither value nor term.
        """
        trace = self._trace(fix, self._plan.pair.guide)
        latent, terms = _latent(trace), self._terms(trace, fix.relaxed)
        for name, site in latent.items():
            frames = [-frame.dim for frame in site["cond_indep_stack"] if frame.name != PLATE]
            self._depth[name] = max(frames, default=0) + site["fn"].event_dim
        summed = {name for name, site in latent.items() if "enumerate" in site["infer"]} - set(fix.relaxed)
        values = {name: site["value"] for name, site in latent.items() if name not in summed}
        return values, {name: terms[name] for name in (values if summed else terms)}, bool(summed)

    def _trace(self, fix: "_Fix", program: Callable[..., Any]) -> Any:
        pair = self._plan.pair

        def plated() -> Any:
            with pyro.plate(PLATE, self.num_particles, dim=-1 - int(pair.max_plate_nesting)):
                return program(*pair.args, **pair.kwargs)

        with poutine.block():
            return poutine.trace(fix(plated)).get_trace()

    def _terms(self, trace: Any, relaxed: Mapping[str, Any], num_particles: int | None = None) -> dict[str, Term]:
        """Return the log densities of the sites: (particles, rows) inside their plate, else (particles,)."""
        full = [num_particles or self.num_particles, *[1] * int(self._plan.pair.max_plate_nesting)]
        found = {}
        for name, site in _sites(trace).items():
            rows = [frame for frame in site["cond_indep_stack"] if frame.name in self._plan.rows]
            log_prob = mean_log_prob(self.ppl, relaxed[name], site["fn"]) if name in relaxed else _log_prob(site)
            found[name] = Term(_reduced(log_prob, rows, full), bool(rows), site["scale"])
        return found


def _log_prob(site: Any) -> Array:
    log_prob = site["fn"].log_prob(site["value"])
    return log_prob if site["mask"] is None else scale_and_mask(log_prob, mask=site["mask"])


def _reduced(log_prob: Array, rows: Sequence[Any], full: Sequence[int]) -> Array:
    """Return a log density summed over all axes but those of the particles, the first, and of the rows."""
    shape = list(full)
    for frame in rows:
        shape[frame.dim] = frame.size
    # torch.broadcast_shapes would load SymPy, for two seconds.
    log_prob = log_prob.broadcast_to(np.broadcast_shapes(log_prob.shape, shape))
    kept = {0, *(len(shape) + frame.dim for frame in rows)}
    axes = tuple(axis for axis in range(log_prob.ndim) if axis not in kept)
    return log_prob.sum(axes) if axes else log_prob


class _Fix(Messenger):
    """Gives a program its parameters and the values of its latent sites; notes which it drew differentiably."""

    def __init__(
        self,
        params: Arrays,
        frozen: frozenset[str] = frozenset(),
        values: Mapping[str, Array] | None = None,
        noise: Mapping[str, Array] | None = None,
        relaxation: Relaxation | None = None,
    ):
        super().__init__()
        self._params, self._frozen, self._values = params, frozen, values or {}
        self._noise, self._relaxation = noise or {}, relaxation
        self.differentiable: set[str] = set()
        self.relaxed: dict[str, Any] = {}

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self._params:
            value = self._params[msg["name"]]
            msg["value"] = value.detach() if msg["name"] in self._frozen else value

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["fn"].has_rsample:
            self.differentiable.add(msg["name"])

    def _pyro_sample(self, msg: Any) -> None:
        """Set the value of a site, once the plates around it have given its distribution its shape."""
        name, distribution = msg["name"], msg["fn"]
        if msg["is_observed"] or msg["value"] is not None or type(distribution).__name__ == "_Subsample":
            return
        if name in self._values:
            msg["value"] = self._values[name]
        elif name in self._noise:
            msg["value"] = push(self._noise[name].reshape(distribution.shape()), distribution)
        elif self._relaxation is not None and relaxes(distribution):
            logits = base(distribution).logits
            msg["value"] = self._relaxation(torch.rand(relaxed_shape(distribution), dtype=logits.dtype), logits)
            self.relaxed[name] = distribution
        if msg["value"] is not None:
            self.differentiable.add(name)


def _sites(trace: Any) -> dict[str, Any]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample" and not _is_deterministic(site)
    }


def _is_deterministic(site: Any) -> bool:
    return bool(site["infer"].get("_deterministic", False))


def _latent(trace: Any) -> dict[str, Any]:
    return {
        name: site
        for name, site in _sites(trace).items()
        if not site["is_observed"] and type(site["fn"]).__name__ != "Unit"
    }


def _last_axes(value: Array, count: int) -> Array:
    """Return the array without the axes of one to the left of its last so many."""
    return value.reshape(value.shape[value.ndim - count :])


# --- the loss, and gradients by the draw ------------------------------------------------------------------------------


class Loss(ELBO):
    """An estimator as a loss of `pyro.infer.SVI`.

    memory: what it keeps from step to step: None before the first.
    """

    def __init__(
        self, estimator: Estimator, num_particles: int, rows: Sequence[str], max_plate_nesting: float = float("inf")
    ):
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self._estimator, self._rows, self._nesting = estimator, tuple(rows), max_plate_nesting
        self._of_guide: frozenset[str] = frozenset()
        self._of_model: frozenset[str] | None = None
        self.memory: Array | None = torch.zeros(2) if estimator.remembers else None

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a tensor, whose gradient is the estimate."""
        pair = Pair(model, guide, args, kwargs, self._nesting)
        if self._of_model is None:
            self._of_guide, self._of_model = params_of(guide, args, kwargs), params_of(model, args, kwargs)
        if pair.max_plate_nesting == float("inf"):
            self._nesting = backend("pyro").inspect(pair)[1]
        params = {name: pyro.param(name) for name in sorted(self._of_guide | self._of_model)}
        plan = Plan(pair._replace(max_plate_nesting=self._nesting), self.num_particles, self._rows, self._of_model)
        drawn = Particles(plan, params)
        drawn.memory = self.memory
        loss = -self._estimator(drawn)
        self.memory = None if drawn.memory is None else drawn.memory.detach()
        return loss

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return get_importance_trace("flat", self._nesting, model, guide, args, kwargs)

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
        """Return the loss, and add its gradient to that of the parameters."""
        loss = self.differentiable_loss(*args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.item())

    def loss(self, *args: Any, **kwargs: Any) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self.differentiable_loss(*args, **kwargs).item())

    @staticmethod
    def remembering(guide: Callable[..., Any]) -> Callable[..., Any]:
        """Return the guide itself: the loss remembers."""
        return guide


def params_of(program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the parameters of a program, which is run once, so that they exist."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return frozenset(poutine.trace(program).get_trace(*args, **kwargs).param_nodes)


def gradients(
    plan: Plan, params: Arrays, estimator: Estimator, num_draws: int, seed: int, noise: Arrays | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the estimates of the bound and of its gradient, one for each draw of K particles, as NumPy arrays.

    noise: (draws, particles, *shape) of the sites that it is given for.
    """
    values: list[float] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in params}
    with _seeded(seed):
        for index in range(num_draws):
            here = {name: eps[index] for name, eps in (noise or {}).items()}

            def one(leaves: Arrays, here: Arrays = here) -> Array:
                return estimator(Particles(plan, leaves, here))

            value, gradient = backend("pyro").value_and_gradient(one, params)
            values.append(value)
            for name, leaf in gradient.items():
                found[name].append(leaf)
    return np.array(values), {name: np.stack(column) for name, column in found.items()}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch in a parameter store of our own, and give the user's random state back."""
    with backend("pyro").precision(), pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def log_weights(plan: Plan, params: Arrays, num_draws: int, seed: int) -> np.ndarray:
    """Return the log weights of so many draws of K particles, one below the other: (draws * K, rows)."""
    leaves = {name: backend("pyro").ppl.array(leaf) for name, leaf in params.items()}
    with _seeded(seed), torch.no_grad():
        drawn = [particles.log_weights(Particles(plan, leaves).draw()) for _ in range(num_draws)]
        return torch.cat(drawn).numpy()


def unobserved(model: Callable[..., Any], observed: Sequence[str]) -> Callable[..., Any]:
    """Return a model as a guide: its latent sites as they are drawn before anything is observed."""
    return poutine.block(dreaming(model), hide=list(observed))


def widened(guide: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """Return a guide with the scales of its normal sites multiplied."""

    class Widen(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
                msg["fn"] = particles.wider(backend("pyro").ppl, msg["fn"], factor)

    return Widen()(guide)
