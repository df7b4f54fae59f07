"""Particles: draws of a guide, each weighed by the model, in either library.

Gradient estimators and importance weights are made of these alone, so that each is written once. Log densities are kept
site by site and, inside the plate of the rows, row by row: a row then has importance weights of its own, and the factor
by which a minibatch stands for all rows stays outside of them.
"""

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from latentzoo.inference.automatic import Arrays, Pair, backend, base
from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import LIBRARIES, Handle

Array = Any
# (uniform noise, logits of categories) -> a differentiable stand-in for their draw, a vector on the simplex.
Relaxation = Callable[[Array, Any], Array]


class Term(NamedTuple):
    """The log density of a site at its draws, before any scale.

    log_prob: (particles, rows) of a local site, one inside the plate of the rows; else (particles,).
    scale: what the library multiplies it by: how many rows of the whole data one of a minibatch stands for.
    """

    log_prob: Array
    local: bool
    scale: Any


Terms = Mapping[str, Term]


class Split(NamedTuple):
    """A log density as shared + scale * sum over rows.

    shared: (particles,), of what all rows share, its own scale within. rows: (particles, rows), None without rows.
    """

    shared: Array | float
    rows: Array | None
    scale: Any

    def common(self) -> Array | float:
        """Return the mean over particles of what all rows share."""
        return self.shared.mean() if hasattr(self.shared, "mean") else self.shared

    def total(self) -> Array:
        """Return the log density of each particle: (particles,)."""
        return self.shared if self.rows is None else self.shared + self.scale * self.rows.sum(-1)

    def minus(self, other: "Split") -> "Split":
        """Return the difference of two log densities over the same rows."""
        if self.rows is None and other.rows is not None:
            return Split(self.shared - other.shared, -other.rows, other.scale)
        rows = self.rows if other.rows is None else self.rows - other.rows
        return Split(self.shared - other.shared, rows, self.scale)


class Draws(NamedTuple):
    """Particles, and their log densities by site.

    values: of each latent site, as the library holds them: to be handed back to `Particles.at`, not to be looked into.
    guide, model: the terms of log q(values) and log p(data, values); no model where its discrete sites are summed out.
    reparametrised: the latent sites whose draws are differentiable in the parameters.
    """

    values: Arrays
    guide: Terms
    model: Terms
    reparametrised: frozenset[str]

    @property
    def latent(self) -> dict[str, Term]:
        """The terms of the guide that belong to latent sites, without its factors."""
        return {name: term for name, term in self.guide.items() if name in self.values}

    @property
    def all_local(self) -> bool:
        """Whether every latent site belongs to a row, so that the rows can be weighed one by one."""
        return bool(self.values) and all(term.local for term in self.latent.values())


class Particles(ABC):
    """Draws of a pair of programs at given parameters.

    Attributes
    ----------
    ppl: the handle of the library. num_particles: K, how many a step sees.
    memory: what an estimator keeps from step to step, (2,); None where nobody keeps it.
    """

    memory: Array | None = None

    def __init__(self, library: str, plan: "Plan", params: Arrays):
        """Draw by a plan at these parameters, which are arrays of the library."""
        self._plan, self._params = plan, params
        self._frozen: frozenset[str] = frozenset()
        self._auto = backend(library)
        self.ppl: Handle = self._auto.ppl
        self.num_particles = plan.num_particles

    @abstractmethod
    def draw(self, relaxation: Relaxation | None = None) -> Draws:
        """Draw every latent site from the guide; at each call anew, unless the noise was given.

        relaxation: takes the place of the draws of categories, as vectors on the simplex, whose log densities under
        guide and model are then their means over the guide's probabilities: their KL divergence is exact.
        """

    @abstractmethod
    def at(self, values: Arrays) -> Draws:
        """Return the log densities at these values, whose gradient is that by the parameters and by the values."""

    @abstractmethod
    def guide_at(self, values: Arrays) -> Terms:
        """Return the log densities of the guide's latent sites alone at these values."""

    @abstractmethod
    def summed_out(self, values: Arrays) -> Array:
        """Return the bound at each draw of the continuous sites, the discrete ones enumerated: (particles,)."""

    @abstractmethod
    def jacobians(self, function: Callable[["Particles"], Array], num_draws: int) -> Arrays:
        """Return the gradients of a function of one particle, at draws of their own: (draws, *numbers, *shape)."""

    @abstractmethod
    def dreamt(self) -> Draws:
        """Draw rows and their latent sites from the model; return the log densities of the guide at them."""

    def guide_alone(self) -> Self:
        """Return the same particles of a guide through which no gradient reaches parameters that the model has, too."""
        same = copy.copy(self)
        same._frozen = self._plan.model_params
        return same

    def enumerated(self) -> Self:
        """Return the same particles of programs whose discrete sites of finite support are all summed out."""
        pair, same = self._plan.pair, copy.copy(self)
        model, guide = self._auto.enumerated(pair.model), self._auto.enumerated(pair.guide)
        same._plan = self._plan._replace(pair=pair._replace(model=model, guide=guide))
        return same

    def sampled(self) -> Self:
        """Return the same particles of programs that draw every site, those that they mark for enumeration, too."""
        pair, same = self._plan.pair, copy.copy(self)
        model, guide = self._auto.sampled(pair.model), self._auto.sampled(pair.guide)
        same._plan = self._plan._replace(pair=pair._replace(model=model, guide=guide))
        return same

    def held(self, draws: Draws) -> Draws:
        """Return the log densities at the same draws, held where they are: their gradient is the direct one."""
        return self.at(self.stopped(draws.values))

    def stopped(self, values: Arrays) -> Arrays:
        """Return the values, with no gradient through them."""
        return {name: self.ppl.stop_gradient(value) for name, value in values.items()}

    def bound(self, draws: Draws) -> Array:
        """Return log p(data, values) - log q(values) of each particle, its discrete sites summed out: (particles,)."""
        return weights(draws).total() if draws.model else self.summed_out(draws.values)


def split(terms: Iterable[Term]) -> Split:
    """Add up the terms of a log density.

    Raises
    ------
    UserError: sites of a row are scaled differently, so that no single factor is left outside of its weights.
    """
    shared, rows, scales = 0.0, None, []
    for term in terms:
        if term.local:
            rows = term.log_prob if rows is None else rows + term.log_prob
            scales.append(term.scale)
        else:
            shared = shared + term.scale * term.log_prob
    if any(scale is not scales[0] and not _same(scale, scales[0]) for scale in scales[1:]):
        raise UserError("sites in the plate of the rows have different scales: rows have no weights of their own then")
    return Split(shared, rows, scales[0] if scales else 1.0)


def _same(scale: Any, other: Any) -> bool:
    return bool(getattr(scale, "ndim", 0) == 0 and getattr(other, "ndim", 0) == 0 and float(scale) == float(other))


def weights(draws: Draws) -> Split:
    """Return the log importance weights log p(data, values) - log q(values).

    Raises
    ------
    UserError: the guide or the model has sites to be enumerated.
    """
    if not draws.model:
        raise UserError("this estimator weighs draws of every latent site: it has no place for enumerated ones")
    return split(draws.model.values()).minus(split(draws.guide.values()))


def log_weights(draws: Draws) -> Array:
    """Return the log weights of every row, (particles, rows), or of all data together, (particles, 1)."""
    found = weights(draws)
    return found.rows if draws.all_local and found.rows is not None else found.total()[:, None]


def wider(ppl: Handle, distribution: Any, factor: float) -> Any:
    """Return a normal distribution with its scale multiplied.

    Raises
    ------
    UserError: the distribution is not normal.
    """
    kind = type(distribution).__name__
    if kind == "Normal":
        return ppl.dist.Normal(distribution.loc, factor * distribution.scale)
    if kind == "MultivariateNormal":
        return ppl.dist.MultivariateNormal(distribution.loc, scale_tril=factor * distribution.scale_tril)
    if kind == "Independent":
        return wider(ppl, distribution.base_dist, factor).to_event(distribution.reinterpreted_batch_ndims)
    if kind == "ExpandedDistribution":
        return wider(ppl, distribution.base_dist, factor).expand(distribution.batch_shape)
    raise UserError(f"the guide draws from a {kind}: only scales of normal distributions can be multiplied")


class Estimator(Protocol):
    """A scalar of particles whose value estimates a bound, and whose gradient estimates that of an objective."""

    @property
    def remembers(self) -> bool:
        """Whether it keeps numbers from step to step, in `particles.memory`."""

    def __call__(self, particles: Particles) -> Array:
        """Return the scalar."""


def gradient_only(particles: Particles, x: Array) -> Array:
    """Return zero, with the gradient of x."""
    return x - particles.ppl.stop_gradient(x)


class Plan(NamedTuple):
    """What particles are drawn with: all but the parameters and the random numbers.

    rows: the names of the plates over the rows. model_params: the names of the parameters that the model has.
    """

    pair: Pair
    num_particles: int
    rows: Sequence[str] = ()
    model_params: frozenset[str] = frozenset()


def asleep(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a model with nothing observed, as many rows as there are.

    Raises
    ------
    UserError: the program is not called as those of the zoo are, with its data first.
    """
    if not args or not hasattr(args[0], "_fields"):
        raise UserError("a model that dreams is called as those of the zoo, (data, prior, params), and returns data")
    num_rows = contract.num_rows(args[0])
    told = {} if num_rows is None else {"num_rows": num_rows}
    return (contract.without_rows(args[0]), *args[1:]), {**kwargs, **told}


def dreaming(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model with nothing observed, whatever data it is called with."""

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = asleep(args, kwargs)
        return model(*args, **kwargs)

    return run


def relaxes(distribution: Any) -> bool:
    """Return whether a distribution is one of categories, by their numbers or as one-hot vectors."""
    return type(base(distribution)).__name__.startswith(("Categorical", "OneHotCategorical"))


def relaxed_shape(distribution: Any) -> tuple[int, ...]:
    """Return the shape of a relaxed draw, which has an axis for the categories."""
    inner, shape = base(distribution), tuple(distribution.shape())
    return shape if inner.event_shape else (*shape, inner.logits.shape[-1])


def mean_log_prob(ppl: Handle, guide: Any, own: Any) -> Array:
    """Return the mean log probability of categories, drawn from one distribution, under another."""
    log_prob = (ppl.nn.softmax(base(guide).logits) * ppl.nn.log_softmax(base(own).logits)).sum(-1)
    event = getattr(own, "reinterpreted_batch_ndims", 0)
    return log_prob.sum(tuple(range(-event, 0))) if event else log_prob


def home(library: str) -> Any:
    """Return the module with `Loss` and `gradients` of a library, importing it at the first call."""
    return importlib.import_module(f"latentzoo.inference.particles_{choose(library, LIBRARIES, 'library')}")
