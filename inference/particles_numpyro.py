"""NumPyro behind the interface of `particles.py`: every particle under one vmap; and the loss that its SVI calls."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.elbo import ELBO
from numpyro.primitives import Messenger, mutable

from latentzoo.inference import particles
from latentzoo.inference.automatic import Array, Arrays, Pair, backend, base, constants, push
from latentzoo.inference.automatic_numpyro import BATCH, QUICKLY
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
from latentzoo.models.language.errors import UserError

MEMORY = "estimator_memory"  # a mutable site of the guide, where an estimator keeps numbers from step to step


class Particles(particles.Particles):
    """Draws of a pair of NumPyro programs at given parameters."""

    def __init__(self, plan: Plan, params: Arrays, key: Array, noise: Mapping[str, Array] | None = None):
        """Draw with this key, or with this standard normal noise (particles, *shape) for each site it is given for."""
        super().__init__("numpyro", plan, params)
        self._key, self._noise = key, dict(noise or {})

    def draw(self, relaxation: Relaxation | None = None) -> Draws:
        """Draw every latent site from the guide."""
        return self._weighed({}, self._noise, relaxation)

    def at(self, values: Arrays) -> Draws:
        """Return the log densities at these values."""
        return self._weighed(values, {}, None)

    def guide_at(self, values: Arrays) -> Terms:
        """Return the log densities of the guide's latent sites alone at these values."""
        told = _Told()

        def one(key: Array, values: Arrays) -> Arrays:
            _, terms, _ = self._of_guide(key, _Choice(values), told)
            return {name: term for name, term in terms.items() if name in values}

        return told.terms(jax.vmap(one)(self._keys(), values))

    def summed_out(self, values: Arrays) -> Array:
        """Return the bound at each draw of the continuous sites."""

        def one(values: Arrays) -> Array:
            return self._auto.elbo(self._plan.pair, self._params, constants(values, self.ppl))

        return jax.vmap(one, axis_size=self.num_particles)(values)

    def jacobians(self, function: Callable[[particles.Particles], Array], num_draws: int) -> Arrays:
        """Return the gradients at draws of their own, all at once."""
        self._key, apart = jax.random.split(self._key)

        def one(params: Arrays, key: Array) -> Array:
            return function(self._apart(params, key))

        return jax.vmap(jax.jacrev(one), in_axes=(None, 0))(self._params, jax.random.split(apart, num_draws))

    def _apart(self, params: Arrays, key: Array) -> "Particles":
        return Particles(self._plan._replace(num_particles=1), params, key)

    def dreamt(self) -> Draws:
        """Draw rows and their latent sites from the model."""
        pair, told = self._plan.pair, _Told()

        def one(key: Array) -> tuple[Arrays, Arrays]:
            with handlers.trace() as trace, handlers.seed(rng_seed=key), handlers.substitute(data=self._params):
                data = dreaming(pair.model)(*pair.args, **pair.kwargs)
            drawn = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
            drawn, data = jax.lax.stop_gradient((drawn, data))
            guide = self._guided(key, _Choice(drawn), (data, *pair.args[1:]))
            return {name: drawn[name] for name in _latent(guide)}, self._terms(guide, told)

        values, guide = jax.vmap(one)(self._keys())
        return Draws(values, told.terms(guide), {}, frozenset())

    def _keys(self) -> Array:
        self._key, now = jax.random.split(self._key)
        return jax.random.split(now, self.num_particles)

    def _weighed(self, values: Arrays, noise: Arrays, relaxation: Relaxation | None) -> Draws:
        """Run guide and model for every particle at once."""
        of_guide, of_model = _Told(), _Told()

        def one(key: Array, values: Arrays, noise: Arrays) -> tuple[Arrays, Arrays, Arrays]:
            choice = _Choice(values, noise, relaxation)
            latent, guide, summed = self._of_guide(key, choice, of_guide)
            if summed:
                return latent, guide, {}
            trace = self._trace(self._plan.pair.model, key, _Choice(latent), self._plan.pair.args, self._params)
            if set(_latent(trace)) - set(latent):  # summed out in the model
                return latent, guide, {}
            return latent, guide, self._terms(trace, of_model, choice.relaxed)

        drawn, guide, model = jax.vmap(one)(self._keys(), values, noise)
        differentiable = frozenset(of_guide.differentiable & set(drawn))
        return Draws(drawn, of_guide.terms(guide), of_model.terms(model), differentiable)

    def _of_guide(self, key: Array, choice: "_Choice", told: "_Told") -> tuple[Arrays, Arrays, bool]:
        """Return the values of the latent sites, the terms of the guide, and whether it has sites to be summed out.

        Those have neither value nor term.
        """
        trace = self._guided(key, choice, self._plan.pair.args)
        told.differentiable = choice.differentiable
        latent, terms = _latent(trace), self._terms(trace, told, choice.relaxed)
        summed = {name for name, site in latent.items() if "enumerate" in site["infer"]} - set(choice.relaxed)
        values = {name: site["value"] for name, site in latent.items() if name not in summed}
        return values, {name: terms[name] for name in (values if summed else terms)}, bool(summed)

    def _guided(self, key: Array, choice: "_Choice", args: tuple[Any, ...]) -> dict[str, Any]:
        stop = jax.lax.stop_gradient
        params = {name: stop(value) if name in self._frozen else value for name, value in self._params.items()}
        return self._trace(self._plan.pair.guide, key, choice, args, params)

    def _trace(
        self, program: Callable[..., Any], key: Array, choice: "_Choice", args: tuple[Any, ...], params: Arrays
    ) -> dict[str, Any]:
        def choose(site: dict[str, Any]) -> Array | None:
            if site["type"] == "param":
                return params.get(site["name"])
            return None if site["type"] != "sample" or site["is_observed"] else choice.of(site)

        run = handlers.substitute(handlers.seed(program, key), substitute_fn=choose)
        return handlers.trace(run).get_trace(*args, **self._plan.pair.kwargs)

    def _terms(self, trace: dict[str, Any], told: "_Told", relaxed: Mapping[str, Any] | None = None) -> Arrays:
        """Return the log densities of the sites: (rows,) inside their plate, else ()."""
        found, relaxed = {}, relaxed or {}
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            rows = [frame for frame in site["cond_indep_stack"] if frame.name in self._plan.rows]
            told.scale[name] = 1.0 if site["scale"] is None else site["scale"]
            told.local[name] = bool(rows)
            own = site["fn"]
            log_prob = mean_log_prob(self.ppl, relaxed[name], own) if name in relaxed else own.log_prob(site["value"])
            found[name] = _reduced(log_prob, rows)
        return found


class _Told:
    """What does not change from particle to particle, told on the side when they are traced."""

    def __init__(self) -> None:
        self.local: dict[str, bool] = {}
        self.scale: dict[str, Any] = {}
        self.differentiable: set[str] = set()

    def terms(self, log_probs: Arrays) -> dict[str, Term]:
        return {name: Term(value, self.local[name], self.scale[name]) for name, value in log_probs.items()}


class _Choice:
    """Chooses the values of latent sites: given, pushed from noise, relaxed, or drawn; notes what it did."""

    def __init__(self, values: Arrays, noise: Arrays | None = None, relaxation: Relaxation | None = None):
        self._values, self._noise, self._relaxation = values, noise or {}, relaxation
        self.differentiable: set[str] = set()
        self.relaxed: dict[str, Any] = {}

    def of(self, site: Any) -> Array:
        name, distribution, key = site["name"], site["fn"], site["kwargs"]["rng_key"]
        reparametrised = True
        if name in self._values:
            value = self._values[name]
        elif name in self._noise:
            value = push(self._noise[name], distribution)
        elif self._relaxation is not None and relaxes(distribution):
            logits = base(distribution).logits
            noise = jax.random.uniform(key, relaxed_shape(distribution), logits.dtype)
            value = self._relaxation(noise, logits)
            self.relaxed[name] = distribution
        else:
            reparametrised = bool(distribution.has_rsample)
            value = distribution.sample(key)
            value = value if reparametrised else jax.lax.stop_gradient(value)
        if reparametrised:
            self.differentiable.add(name)
        return value


def _latent(trace: dict[str, Any]) -> dict[str, Any]:
    return {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


def _reduced(log_prob: Array, rows: Sequence[Any]) -> Array:
    """Return a log density summed over all axes but that of the rows."""
    if not rows:
        return log_prob.sum()
    dim = rows[0].dim
    full = jnp.broadcast_shapes(log_prob.shape, (rows[0].size,) + (1,) * (-dim - 1))
    axes = tuple(axis for axis in range(len(full)) if axis != len(full) + dim)
    return jnp.broadcast_to(log_prob, full).sum(axes)


# --- the loss, and gradients by the draw ------------------------------------------------------------------------------


class Loss(ELBO):
    """An estimator as a loss of `numpyro.infer.SVI`."""

    can_infer_discrete = True

    def __init__(
        self, estimator: Estimator, num_particles: int, rows: Sequence[str], max_plate_nesting: float = float("inf")
    ):
        super().__init__(num_particles=num_particles)
        self._estimator, self._rows, self._nesting = estimator, tuple(rows), max_plate_nesting

    def loss_with_mutable_state(
        self, rng_key: Any, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the loss, whose gradient is the estimate, and what the estimator keeps for the next step."""
        params = dict(param_map)
        memory = params.pop(MEMORY, None)
        if self._estimator.remembers and memory is None:
            raise UserError(
                "an estimator that remembers needs a guide that does: SVI(model, loss.remembering(guide), ...)"
            )
        pair = Pair(model, guide, args, kwargs, self._nesting)
        plan = Plan(pair, self.num_particles, self._rows, params_of(pair.model, args, kwargs))
        drawn = Particles(plan, params, rng_key)
        drawn.memory = memory
        loss = -self._estimator(drawn)
        return {"loss": loss, "mutable_state": None if memory is None else {MEMORY: drawn.memory}}

    @staticmethod
    def remembering(guide: Callable[..., Any]) -> Callable[..., Any]:
        """Return the guide with a place for what an estimator keeps from step to step."""

        def remembers(*args: Any, **kwargs: Any) -> Any:
            mutable(MEMORY, jnp.zeros(2))
            return guide(*args, **kwargs)

        return remembers


def params_of(program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the parameters of a program."""
    with handlers.block(), handlers.trace() as trace, handlers.seed(rng_seed=0):
        jax.eval_shape(lambda: program(*args, **kwargs))  # nothing is computed
    return frozenset(name for name, site in trace.items() if site["type"] == "param")


def gradients(
    plan: Plan, params: Arrays, estimator: Estimator, num_draws: int, seed: int, noise: Arrays | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the estimates of the bound and of its gradient, one for each draw of K particles, as NumPy arrays.

    noise: (draws, particles, *shape) of the sites that it is given for.
    """

    def many(params: Arrays, keys: Array, noise: Arrays) -> tuple[Array, Arrays]:
        def one(draw: tuple[Array, Arrays]) -> tuple[Array, Arrays]:
            return jax.value_and_grad(lambda params: estimator(Particles(plan, params, *draw)))(params)

        return jax.lax.map(one, (keys, noise), batch_size=min(BATCH, num_draws))

    keys = jax.random.split(jax.random.PRNGKey(seed), num_draws)
    values, found = jax.jit(many, compiler_options=QUICKLY)(params, keys, noise or {})
    return np.asarray(values), {name: np.asarray(leaf) for name, leaf in found.items()}


def log_weights(plan: Plan, params: Arrays, num_draws: int, seed: int) -> np.ndarray:
    """Return the log weights of so many draws of K particles, one below the other: (draws * K, rows)."""
    model, guide, args, kwargs, nesting = plan.pair
    run = _compiled_log_weights(model, guide, tuple(kwargs.items()), nesting, plan.num_particles, tuple(plan.rows))
    keys = jax.random.split(jax.random.PRNGKey(seed), num_draws)
    return np.concatenate([np.asarray(run(key, params, args)) for key in keys])


@functools.lru_cache(maxsize=16)
def _compiled_log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    kwargs: tuple[tuple[str, Any], ...],
    nesting: float,
    num_particles: int,
    rows: tuple[str, ...],
) -> Callable[..., Array]:
    """Return the compiled function (key, params, args), which parts of the same data share."""

    def one(key: Array, params: Arrays, args: tuple[Any, ...]) -> Array:
        plan = Plan(Pair(model, guide, args, dict(kwargs), nesting), num_particles, rows)
        return particles.log_weights(Particles(plan, params, key).draw())

    return jax.jit(one, compiler_options=QUICKLY)


def unobserved(model: Callable[..., Any], observed: Sequence[str]) -> Callable[..., Any]:
    """Return a model as a guide: its latent sites as they are drawn before anything is observed."""
    return handlers.block(dreaming(model), hide=list(observed))


def widened(guide: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """Return a guide with the scales of its normal sites multiplied."""

    class Widen(Messenger):
        def process_message(self, msg: Any) -> None:
            if msg["type"] == "sample" and not msg["is_observed"]:
                msg["fn"] = particles.wider(backend("numpyro").ppl, msg["fn"], factor)

    return Widen(guide)
