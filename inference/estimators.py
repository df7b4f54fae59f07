"""Gradient estimators, each written once for both libraries.

With z = t(eps, phi) a draw of the guide and f = log p(x, z) - log q(z; phi), the gradient of one draw by phi is

(1)  total = path - score      path: through z alone, phi held inside q; score = d log q(z; phi) / d phi, z held
(2)  E_q[score] = 0            so total + c * score estimates the same for any c: c = 1 is the path derivative
(3)  d E_q[f] / d phi = E_q[(f - b) * score]       for any b that does not depend on z: the score function
(4)  L_K = E log (1/K) sum_k w_k, w = p(x, z) / q(z), with the normalised weights v_k = w_k / sum_j w_j:
     d L_K / d phi   = E sum_k v_k^2 path_k        doubly reparametrised
     d L_K / d theta = E sum_k v_k d log p(x, z_k) / d theta

Every estimator is a function of particles that returns a scalar: its value estimates the bound, its gradient is the
estimate of the bound's gradient. What only moves the gradient is written as `x - stop_gradient(x)`. Where all latent
sites belong to rows, (3) and (4) are taken row by row, each with its own weights; the factor of a minibatch multiplies
their sum.

Sources: (2) Roeder, Wu & Duvenaud 2017, section 3, and Geffner & Domke 2018; (3) Williams 1992; leave-one-out: Kool,
van Hoof & Welling 2019; (4) Burda, Grosse & Salakhutdinov 2016, and Tucker, Lawson, Gu & Maddison 2019, equation 7;
relaxed categories: Jang, Gu & Poole 2017, and Maddison, Mnih & Teh 2017.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from latentzoo.inference.automatic import Array, Arrays, Pair, backend
from latentzoo.inference.particles import Draws, Estimator, Particles, Plan, gradient_only, home, split, weights
from latentzoo.inference.samplers import gumbel_softmax, straight_through
from latentzoo.inference.wake_sleep import ReweightedWakeSleep, importance_weighted, weighted
from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError, choose


def _score(particles: Particles, values: Arrays, sites: Sequence[str]) -> Array:
    """Return log q of some sites, (particles,), whose gradient at values that are held is the score of phi.

    Parameters that the model has, too, keep the derivative of their log q: EM's point parameters have no path.
    """
    terms = particles.guide_alone().guide_at(values)
    return split(terms[name] for name in sites).total()


# --- reparametrised ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """The total derivative (1): what automatic differentiation gives; sites without it take the score function (3)."""

    remembers = False

    def __call__(self, particles: Particles) -> Array:
        """Return the mean bound of the particles."""
        draws = particles.draw()
        bound = particles.bound(draws).mean()
        if left := [name for name in draws.latent if name not in draws.reparametrised]:
            return bound + _score_function(particles, draws, left)
        return bound


@dataclass(frozen=True)
class Path:
    """The path derivative, (2) with c = 1: "sticking the landing".

    At the exact posterior it is zero at every draw. It is not always the better one: for p = Normal(0, 1) and
    q = Normal(m, s^2) the variance of the derivative by m is s^2 of the total, (1/s - s)^2 of the path.
    """

    remembers = False

    def __call__(self, particles: Particles) -> Array:
        """Return the mean bound of the particles."""
        return _controlled(particles, particles.draw(), 1.0)


@dataclass(frozen=True)
class Controlled:
    """The family total + c * score (2), with the c of least variance.

    coefficient: c; None: estimated at every step on draws of its own, c = -Cov(total, score) / Var(score) summed over
        all parameters, so that it does not depend on the draws that it multiplies.
    num_separate: how many draws it is estimated on.
    """

    coefficient: float | None = None
    num_separate: int = 8
    remembers = False

    def __post_init__(self) -> None:
        contract.check_whole("num_separate", self.num_separate, least=2)

    def __call__(self, particles: Particles) -> Array:
        """Return the mean bound of the particles."""
        coefficient = self._estimated(particles) if self.coefficient is None else self.coefficient
        return _controlled(particles, particles.draw(), coefficient)

    def _estimated(self, particles: Particles) -> Array:
        xp, stop = particles.ppl.xp, particles.ppl.stop_gradient

        def both(one: Particles) -> Array:
            draws = one.draw()
            return xp.concatenate([one.bound(draws), _score(one, one.stopped(draws.values), list(draws.latent))])

        found = particles.jacobians(both, self.num_separate).values()
        flat = xp.concatenate([leaf.reshape(self.num_separate, 2, -1) for leaf in found], -1)
        total, score = (flat[:, which] - flat[:, which].mean(0) for which in (0, 1))
        variance = (score**2).sum()
        # Without a score in any parameter, c is of no consequence.
        return stop(-(total * score).sum() / xp.where(variance > 0, variance, xp.zeros_like(variance) + 1))


def _controlled(particles: Particles, draws: Draws, coefficient: Any) -> Array:
    """Return the bound, its gradient that of (2)."""
    if left := [name for name in draws.latent if name not in draws.reparametrised]:
        raise UserError(
            f"the draws of {left[0]} are not differentiable: they have no path; estimator='score' needs none"
        )
    score = _score(particles, particles.stopped(draws.values), list(draws.latent))
    return (particles.bound(draws) + coefficient * gradient_only(particles, score)).mean()


# --- the score function -----------------------------------------------------------------------------------------------

Baseline = Literal["none", "constant", "running", "leave-one-out"]


@dataclass(frozen=True)
class Score:
    """The score function (3), for any guide, discrete ones too.

    Sites that are marked for enumeration are summed out, unless the guide has no others: then they are drawn.

    baseline: what is subtracted from f: nothing; a constant; a running mean of f over the steps so far; or for each
        particle the mean of the others (which may raise the variance: measure it). It is of f in nats, for each row
        where all latent sites belong to rows, else of the whole bound.
    constant: of the constant baseline. decay: of the running one, a step.
    """

    baseline: Baseline = "none"
    constant: float = 0.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        choose(self.baseline, ("none", "constant", "running", "leave-one-out"), "baseline")
        contract.check_number("decay", self.decay, least=0.0)
        if self.decay >= 1:
            raise UserError(f"decay is {self.decay}: it must be below 1")

    @property
    def remembers(self) -> bool:
        """Whether the baseline is kept from step to step."""
        return self.baseline == "running"

    def __call__(self, particles: Particles) -> Array:
        """Return the mean bound of the particles."""
        if self.baseline == "leave-one-out" and particles.num_particles < 2:
            raise UserError("num_particles is 1: a leave-one-out baseline needs at least 2")
        draws = particles.draw()
        if draws.values:
            return self._of(particles, draws)
        # A guide with nothing to draw but sites that it marks for enumeration: summed out, they would have no score.
        drawn = particles.sampled()
        bound = self._of(drawn, drawn.draw())
        particles.memory = drawn.memory
        return bound

    def _of(self, particles: Particles, draws: Draws) -> Array:
        held = particles.held(draws)
        bound = particles.bound(held).mean()
        return bound + _score_function(particles, held, list(held.latent), self._baseline)

    def _baseline(self, particles: Particles, cost: Array) -> Array:
        """Return the baseline of the costs, (particles,) or (particles, rows)."""
        if self.baseline == "leave-one-out":
            return (cost.sum(0) - cost) / (len(cost) - 1)
        if self.baseline == "running":
            return self._running(particles, cost)
        return self.constant if self.baseline == "constant" else 0.0

    def _running(self, particles: Particles, cost: Array) -> Array:
        """Return the mean of earlier steps, zero at the first. memory: their weighted sum, and the sum of weights."""
        memory = _remembered(particles, "a running baseline")
        xp = particles.ppl.xp
        mean = cost.mean()
        here = xp.stack([mean, xp.zeros_like(mean) + 1.0])
        particles.memory = self.decay * memory + (1.0 - self.decay) * here
        return xp.where(memory[1] > 0, memory[0] / xp.where(memory[1] > 0, memory[1], memory[1] + 1.0), memory[0])


def _remembered(particles: Particles, what: str) -> Array:
    """Return what is kept from step to step."""
    if particles.memory is None:
        raise UserError(f"{what} needs a loss or a fit that remembers it from step to step")
    return particles.memory


def _score_function(
    particles: Particles, draws: Draws, sites: Sequence[str], baseline: Callable[..., Any] = lambda *_: 0.0
) -> Array:
    """Return zero, with what (3) adds to the gradient of the bound at draws of some sites that are held.

    It is taken row by row where all latent sites belong to rows.
    """
    stop = particles.ppl.stop_gradient
    # The bound at held draws has -score in its gradient, of mean zero: (3) is without it.
    dropped = _score(particles, draws.values, sites)
    if draws.model and draws.all_local:
        score, cost = split(draws.guide[name] for name in sites), stop(weights(draws).rows)
        weighed = score.scale * ((cost - baseline(particles, cost)) * score.rows).sum(-1)
        return gradient_only(particles, (weighed + dropped).mean())
    # A minibatch scales its rows inside the bound; the score of a draw is that of its density, unscaled.
    score = split(draws.guide[name]._replace(scale=1.0) for name in sites)
    cost = stop(particles.bound(draws))
    return gradient_only(particles, ((cost - baseline(particles, cost)) * score.total() + dropped).mean())


# --- enumerated -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enumerated:
    """The total derivative with every discrete site of finite support summed out, in guide and model."""

    remembers = False

    def __call__(self, particles: Particles) -> Array:
        """Return the mean bound of the particles."""
        summed = particles.enumerated()
        return summed.summed_out(summed.draw().values).mean()


# --- importance-weighted ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportanceWeighted:
    """The total derivative of L_K (4): its signal in phi fades as K grows (Rainforth et al. 2018)."""

    remembers = False

    def __call__(self, particles: Particles) -> Array:
        """Return L_K."""
        draws = particles.draw()
        _differentiable(draws)
        return importance_weighted(particles, weights(draws), draws.all_local)[0]


@dataclass(frozen=True)
class DoublyReparametrised:
    """The doubly reparametrised gradient of L_K (4), whose signal in phi grows with K."""

    remembers = False

    def __call__(self, particles: Particles) -> Array:
        """Return L_K."""
        draws = particles.draw()
        _differentiable(draws)
        held, stop = particles.held(draws), particles.ppl.stop_gradient
        bound, normalised = importance_weighted(particles, weights(draws), draws.all_local)
        # log w moves through z, and, z held, through theta and the score: (4) weighs the first two, and drops the last.
        path, direct = weights(draws).minus(weights(held)), split(held.model.values())
        moved = weighted(stop(normalised) ** 2, path) + weighted(stop(normalised), direct)
        return stop(bound) + gradient_only(particles, moved)


def _differentiable(draws: Draws) -> None:
    if left := [name for name in draws.latent if name not in draws.reparametrised]:
        raise UserError(f"the draws of {left[0]} are not differentiable: this estimator needs them to be")


# --- relaxed categories -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relaxed:
    """Categories relaxed to the simplex (Gumbel-softmax): the gradient is that of another objective, biased.

    The model is evaluated at the relaxed values, which it must take as vectors: sites are OneHotCategorical, or
    Categorical ones that it hands to `ppl.nn.one_hot`. The KL divergence of the categories is exact. The value is no
    bound.
    temperature: of the relaxation; the lower, the smaller its bias and the larger its variance.
    final_temperature: which it falls to within num_steps steps, by the same factor in each; None: it stays.
    """

    temperature: float = 0.5
    final_temperature: float | None = None
    num_steps: int = 1

    def __post_init__(self) -> None:
        contract.check_number("temperature", self.temperature, above=0.0)
        if self.final_temperature is not None:
            contract.check_number("final_temperature", self.final_temperature, above=0.0)
        contract.check_whole("num_steps", self.num_steps)

    @property
    def remembers(self) -> bool:
        """Whether the steps are counted."""
        return self.final_temperature is not None

    def __call__(self, particles: Particles) -> Array:
        """Return the mean relaxed objective of the particles."""
        temperature = self.temperature if self.final_temperature is None else self._fallen(particles)
        return particles.bound(particles.draw(partial(self._relaxation, temperature))).mean()

    def _fallen(self, particles: Particles) -> Array:
        """Return the temperature of this step. memory: the number of steps so far, and nothing."""
        memory = _remembered(particles, "a temperature that falls")
        part = particles.ppl.xp.clip(memory[0] / self.num_steps, 0.0, 1.0)
        particles.memory = memory + 1.0
        assert self.final_temperature is not None
        return self.temperature * particles.ppl.xp.exp(part * math.log(self.final_temperature / self.temperature))

    @staticmethod
    def _relaxation(temperature: Array, noise: Array, logits: Array) -> Array:
        return gumbel_softmax(noise, logits, temperature)


@dataclass(frozen=True)
class StraightThrough(Relaxed):
    """One-hot draws with the gradient of relaxed ones: the value estimates the bound, the gradient is biased."""

    @staticmethod
    def _relaxation(temperature: Array, noise: Array, logits: Array) -> Array:
        return straight_through(noise, logits, temperature)


# --- by name ----------------------------------------------------------------------------------------------------------

ESTIMATORS: dict[str, Estimator] = {
    "total": Total(),
    "path": Path(),
    "controlled": Controlled(),
    "score": Score(),
    "score-running": Score("running"),
    "score-leave-one-out": Score("leave-one-out"),
    "enumerated": Enumerated(),
    "iwae": ImportanceWeighted(),
    "dreg": DoublyReparametrised(),
    "rws": ReweightedWakeSleep(),
    "rws-sleep": ReweightedWakeSleep("sleep"),
    "relaxed": Relaxed(),
    "straight-through": StraightThrough(),
}


def named(estimator: str | Estimator) -> Estimator:
    """Return an estimator by its name, or as it is given.

    Raises
    ------
    UserError: an unknown name: the nearest is told.
    """
    return ESTIMATORS[choose(estimator, ESTIMATORS, "estimator")] if isinstance(estimator, str) else estimator


def loss(
    library: str,
    estimator: str | Estimator,
    *,
    num_particles: int = 1,
    rows: Sequence[str] = (),
    max_plate_nesting: float = float("inf"),
) -> Any:
    """Return an estimator as a loss for the `SVI` of a library, and for any programs of it.

    Parameters
    ----------
    estimator: a name of `ESTIMATORS`, or an instance such as `Score("leave-one-out")`.
    num_particles: draws of the guide for each step, K.
    rows: the names of the plates over the rows of the data: rows whose latent sites are all their own have importance
        weights and baselines of their own.
    max_plate_nesting: of the programs; for Pyro, found by running them when it is not given.

    One that remembers, as a running baseline does, needs `SVI(model, loss.remembering(guide), ...)`.
    """
    contract.check_whole("num_particles", num_particles)
    return home(library).Loss(named(estimator), num_particles, tuple(rows), max_plate_nesting)


def gradients(
    library: str,
    estimator: str | Estimator,
    pair: Pair,
    params: Arrays,
    *,
    num_particles: int = 1,
    num_draws: int = 100,
    rows: Sequence[str] = (),
    seed: int = 0,
    noise: Arrays | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return independent estimates of the bound, (draws,), and of its gradient by each parameter, (draws, *shape).

    Parameters
    ----------
    pair: the programs, with their arguments. params: the values of their `param` sites, by name.
    num_particles, rows: as of `loss`. num_draws: how many estimates.
    noise: standard normal noise (draws, particles, *shape) for normal sites; others are drawn from the seed. With the
        nodes of a quadrature rule as noise, weighted means of the estimates are exact expectations.
    """
    where, auto = home(library), backend(library)
    with auto.precision():
        if pair.max_plate_nesting == float("inf"):
            pair = pair._replace(max_plate_nesting=auto.inspect(pair)[1])
        plan = Plan(pair, num_particles, tuple(rows), where.params_of(pair.model, pair.args, pair.kwargs))
        return where.gradients(plan, params, named(estimator), num_draws, seed, noise)
