"""Stochastic variational inference by either library's own SVI, under one signature and the same settings.

Both libraries start from the same parameters, take the same minibatches in the same order, and follow the same learning
rates; only their random numbers differ.
"""

import dataclasses
import importlib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from latentzoo.inference import estimators
from latentzoo.inference.automatic import backend
from latentzoo.inference.minibatches import Minibatches, in_precision
from latentzoo.inference.particles import Estimator
from latentzoo.inference.run import Step
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Library

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

NUM_STEPS = 5000
LIBRARIES: tuple[Library, ...] = ("numpyro", "pyro")
TEMPERATURES = ("temperature", "final_temperature")
Schedule = Literal["plateau", "cosine", "exponential", "constant"]
Dtype = Literal["float32", "float64"]
BLOCK = 50  # steps between two looks at the bound
WINDOW = 6  # blocks: the bound is smoothed over each half of them
LEVELS = (1.0, 0.2, 0.04)  # of the learning rate, one after each plateau

PLACE, MEANS = "run.place", "run.means"  # of a state, where a run is in its schedule

# Multipliers of the learning rate at a part of the run, from 0 to 1.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "cosine": lambda part: (1.0 + np.cos(np.pi * part)) / 2.0,
    "exponential": lambda part: 0.01**part,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen.

    learning_rate: of the optimiser, at its highest.
    schedule: how it falls: a fifth whenever the smoothed bound no longer rises, or with the steps, or not at all.
    optimiser: optax's, or torch's through Pyro; their numbers agree.
    batch_rows: the rows of a minibatch; the whole data by default.
    num_particles: draws of the guide for each step.
    estimator: of the gradient: total, path, controlled, score, score-running, score-leave-one-out, enumerated, iwae,
        dreg, rws, rws-sleep, relaxed, straight-through, or an instance of one; by default the library's own loss.
    temperature: of relaxed and straight-through at the first step. final_temperature: at the last, to which it falls
        by the same factor in each; without it, it stays.
    warm_up: steps in which the weight of the divergence, log p - log q of the latent variables, rises from 0 to 1.
    dtype: the precision of the steps.
    """

    learning_rate: float = 0.05
    schedule: Schedule = "plateau"
    optimiser: Literal["adam", "sgd"] = "adam"
    batch_rows: int | None = None
    num_particles: int = 1
    estimator: str | Estimator | None = None
    temperature: float | None = None
    final_temperature: float | None = None
    warm_up: int = 0
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        contract.check_number("learning_rate", self.learning_rate, above=0.0)
        contract.check_whole("num_particles", self.num_particles)
        contract.check_whole("warm_up", self.warm_up, least=0)
        if self.batch_rows is not None:
            contract.check_whole("batch_rows", self.batch_rows)
        self.estimator_of(1)  # or there is none of this name, or it has no temperature

    def check(self, zoo: "Entry") -> None:
        """Raise `UserError` where they do not suit a model."""

    def estimator_of(self, num_steps: int) -> Estimator | None:
        """Return the estimator of a run of so many steps, at its temperature; None for the library's own loss."""
        found = None if self.estimator is None else estimators.named(self.estimator)
        given = {name: value for name in TEMPERATURES if (value := getattr(self, name)) is not None}
        if given and not isinstance(found, estimators.Relaxed):
            name = next(iter(given))
            raise UserError(f"{name} is {given[name]!r}: estimator='relaxed' and 'straight-through' have one alone")
        return dataclasses.replace(found, **given, num_steps=num_steps) if given else found  # type: ignore[type-var]

    def rows_of_a_batch(self, total: int) -> int | None:
        """Return the rows of a minibatch of so many rows; None where each step sees them all."""
        if self.batch_rows is not None and self.batch_rows > total:
            raise UserError(f"batch_rows is {self.batch_rows}: the data have {total} rows")
        return self.batch_rows

    def prepared(self, data: Any, rng: np.random.Generator) -> Any:
        """Return the rows of some steps as they are learnt from: as they are."""
        return data


class Problem(NamedTuple):
    """What is optimised, apart from the arrays: hashable, so that each is compiled once.

    guide: of the library, called with (data, prior, params) as `zoo.guide` is. total_rows: of the data that a
    minibatch stands for; None where a step sees them all. tempered: whether the divergence has a weight.
    """

    zoo: "Entry"
    guide: Callable[..., Any]
    optimiser: str
    num_particles: int
    total_rows: int | None
    estimator: Estimator | None = None
    tempered: bool = False
    dtype: Dtype = "float64"

    def programs(self, library: Library) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the model and the guide as the library runs them."""
        pair = self.zoo.model.on(library), self.guide
        return (backend(library).tempered(pair[0]), backend(library).tempered(pair[1])) if self.tempered else pair

    def keywords(self, latent_weight: Any) -> dict[str, Any]:
        """Return the keywords that model and guide are called with in a step."""
        rows = {} if self.total_rows is None else {"total_rows": self.total_rows}
        return {**rows, "latent_weight": latent_weight} if self.tempered else rows


class Start(NamedTuple):
    """Where SVI begins.

    args: data, or a row of them where there are minibatches, prior and params, all of NumPy. block: the most steps
    that are taken at once. state: of an earlier run, which this one goes on.
    """

    args: tuple[Any, Any, Any]
    seed: int
    block: int
    state: Mapping[str, np.ndarray] | None


class Block(NamedTuple):
    """Some steps: the learning rate and the weight of the divergence of each, and the rows they see.

    batches: data with an axis for the steps, as many as a block has at most; None where each sees all rows.
    """

    rates: np.ndarray
    weights: np.ndarray
    batches: Any


class Stepper(Protocol):
    """SVI of one library, at one start."""

    def advance(self, block: Block) -> Any:
        """Begin to take the steps; return their losses, an array of the library's, which may still be on its way."""

    def values(self) -> dict[str, np.ndarray]:
        """Return the value of each `param` site."""

    def state(self) -> dict[str, np.ndarray]:
        """Return all that is needed to go on, to the bit."""


class Place(NamedTuple):
    """Where a run is in its schedule: steps done, plateaus behind it, and the means of the blocks since the last."""

    done: int = 0
    level: int = 0
    means: tuple[float, ...] = ()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the place as arrays, to be kept with the state."""
        return {PLACE: np.array([self.done, self.level]), MEANS: np.array(self.means)}

    @classmethod
    def of(cls, state: Mapping[str, np.ndarray]) -> "Place":
        """Return the place that a state was kept with: the beginning, where there is none."""
        if PLACE not in state:
            return cls()
        done, level = (int(number) for number in state[PLACE])
        return cls(done, level, tuple(float(mean) for mean in state[MEANS]))


def steps(
    zoo: "Entry",
    data: Any,
    prior: Any,
    params: Params,
    *,
    library: Library,
    guide: Callable[..., Any],
    settings: Settings,
    seed: int,
    num_steps: int,
    tol: float,
    state: Mapping[str, np.ndarray] | None = None,
    keep_state: Callable[[dict[str, np.ndarray]], None] = lambda state: None,
) -> Iterator[Step]:
    """Optimise a guide; tell of each block of steps the mean of its noisy bounds.

    Parameters
    ----------
    params: to start from; their phi is None where the guide is not the model's own.
    state: of an earlier run, from which this one goes on. keep_state: is given it before each block is told of. With
        the place that is kept in it, it is the same run that goes on; `at_rest` takes that out.
    tol: a plateau is where the smoothed bound rises by less than this part of itself.
    """
    total = contract.num_rows(data) or 0
    batch, dtype, warm_up = settings.rows_of_a_batch(total), settings.dtype, settings.warm_up
    problem = Problem(
        zoo,
        guide,
        settings.optimiser,
        settings.num_particles,
        total_rows=None if batch is None else total,
        estimator=settings.estimator_of(num_steps),
        tempered=warm_up > 0,
        dtype=dtype,
    )
    batches = None if batch is None else Minibatches(data, batch, seed=seed, dtype=dtype, prepare=settings.prepared)
    most = BLOCK if batches is None else batches.most_steps(BLOCK)
    seen = data if batches is None else batches.example()
    begin = Start(
        (in_precision(seen, dtype), in_precision(prior, dtype), in_precision(params, dtype)), seed, most, state
    )
    module = importlib.import_module(f"latentzoo.inference.svi_{library}")
    stepper = typing.cast(Stepper, module.Stepper(problem, begin))
    place = Place.of(state or {})
    # A pass over all rows is one evaluation.
    per_step = settings.num_particles * (1.0 if batch is None else batch / total)

    def fetched(first: int) -> Any:
        return None if batches is None or first >= num_steps else batches.take(first, most)

    rows = fetched(place.done)
    for done in range(place.done, num_steps, most):
        size = min(most, num_steps - done)
        rates = settings.learning_rate * _multipliers(settings.schedule, place.level, done, size, num_steps)
        weights = np.minimum((done + np.arange(size)) / max(warm_up, 1), 1.0)
        found = stepper.advance(Block(rates, weights, rows))
        rows = fetched(done + most)  # while the library may still compute
        losses = contract.as_numpy(found)[:size].astype(np.float64)
        number, level, plateau = done + size, place.level, Plateau(tol, place.means)
        # While the divergence is weighed less than it will be, the bound falls.
        if number > warm_up and plateau.reached(-losses):
            level, plateau = level + 1, Plateau(tol)
        place = Place(number, level, plateau.means)
        keep_state(stepper.state() | place.arrays())
        converged = ""
        if _at_rest(settings.schedule, level, number == num_steps):
            converged = f"the smoothed bound no longer rises, at learning rate {rates[-1]:.3g}"
        yield Step(number, _params(zoo, params, stepper.values()), number * per_step, -float(losses.mean()), converged)


def at_rest(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a state without its place in a schedule: another run may begin where it is."""
    return {name: array for name, array in state.items() if name not in (PLACE, MEANS)}


def check_state(state: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> None:
    """Raise `UserError` where a state is not that of this model and these settings."""
    for name, leaf in like.items():
        kept, wanted = state.get(name), contract.as_numpy(leaf)
        if kept is None or kept.shape != wanted.shape or kept.dtype != wanted.dtype:
            found = "is missing" if kept is None else f"has shape {kept.shape} of {kept.dtype}"
            raise UserError(
                f"the state to go on from is of another run: {name} {found}, not {wanted.shape} of {wanted.dtype}"
            )


def _multipliers(schedule: str, level: int, done: int, size: int, num_steps: int) -> np.ndarray:
    if schedule == "plateau":
        return np.full(size, LEVELS[min(level, len(LEVELS) - 1)])
    return DECAYS[schedule]((done + np.arange(size)) / num_steps)


def _at_rest(schedule: str, level: int, last: bool) -> bool:
    """Return whether a run has converged after so many plateaus: a rate that falls with the steps falls to its end."""
    if schedule == "plateau":
        return level == len(LEVELS)
    return level > 0 and (last or schedule == "constant")


def _params(zoo: "Entry", start: Params, values: dict[str, np.ndarray]) -> Params:
    """Return the parameters by the tree of the model; those of another guide are a dict by the names of their sites."""
    values = in_precision(values, "float64")  # whatever the steps were in
    if start.phi is not None:
        return zoo.params(values)
    point = {name: value for name, value in values.items() if name.startswith("theta.")}
    own = {name: value for name, value in values.items() if name not in point}
    return Params(zoo.params(point).theta if point else None, own)


class Plateau:
    """Says when a noisy bound has stopped to rise: its mean over the later half of a window is no higher than before.

    Where the bound is flat the noise decides, and half the looks say so; where it still rises by a few times the noise
    of a mean over half a window, hardly any does.
    """

    def __init__(self, tol: float, means: tuple[float, ...] = ()):
        self._tol, self.means = tol, means

    def reached(self, elbos: np.ndarray) -> bool:
        """Take in a block of bounds; return whether the window is full and flat."""
        self.means = (*self.means, float(elbos.mean()))[-WINDOW:]
        before, after = self.means[: WINDOW // 2], self.means[WINDOW // 2 :]
        rise = sum(after) / len(after) - sum(before) / len(before) if after else np.inf
        return len(self.means) == WINDOW and rise <= self._tol * abs(self.means[-1])
