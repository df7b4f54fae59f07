"""Stochastic variational inference by either library's own SVI, under one signature and the same settings.

Both libraries start from the same parameters, take the same minibatches in the same order, and follow the same learning
rates; only their random numbers differ.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

import numpy as np

from latentzoo.inference import estimators
from latentzoo.inference.automatic import backend
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
BLOCK = 50  # steps between two looks at the bound
WINDOW = 6  # blocks: the bound is smoothed over each half of them
LEVELS = (1.0, 0.2, 0.04)  # of the learning rate, one after each plateau

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
    """

    learning_rate: float = 0.05
    schedule: Literal["plateau", "cosine", "exponential", "constant"] = "plateau"
    optimiser: Literal["adam", "sgd"] = "adam"
    batch_rows: int | None = None
    num_particles: int = 1
    estimator: str | Estimator | None = None

    def __post_init__(self) -> None:
        contract.check_number("learning_rate", self.learning_rate, above=0.0)
        contract.check_whole("num_particles", self.num_particles)
        if self.batch_rows is not None:
            contract.check_whole("batch_rows", self.batch_rows)
        if self.estimator is not None:
            estimators.named(self.estimator)  # or there is none of this name


class Problem(NamedTuple):
    """What is optimised, apart from the arrays: hashable, so that each is compiled once.

    guide: of the library, called with (data, prior, params) as `zoo.guide` is. total_rows: of the data that a
    minibatch stands for; None where a step sees them all.
    """

    zoo: "Entry"
    guide: Callable[..., Any]
    optimiser: str
    num_particles: int
    total_rows: int | None
    estimator: Estimator | None = None

    @property
    def kwargs(self) -> dict[str, int]:
        """The keywords that model and guide are called with."""
        return {} if self.total_rows is None else {"total_rows": self.total_rows}


class Start(NamedTuple):
    """Where SVI begins.

    args: data, prior and params as arrays of the library. state: of an earlier run, which this one goes on.
    """

    args: tuple[Any, Any, Any]
    seed: int
    state: dict[str, np.ndarray] | None


class Stepper(Protocol):
    """SVI of one library, at one start."""

    def advance(self, rates: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Take a step at each of the learning rates, on these rows (steps, batch_rows); return the losses."""

    def values(self) -> dict[str, np.ndarray]:
        """Return the value of each `param` site."""

    def state(self) -> dict[str, np.ndarray]:
        """Return all that is needed to go on, to the bit."""


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
    state: dict[str, np.ndarray] | None = None,
    keep_state: Callable[[dict[str, np.ndarray]], None] = lambda state: None,
) -> Iterator[Step]:
    """Optimise a guide; tell of each block of steps the mean of its noisy bounds.

    Parameters
    ----------
    params: to start from; their phi is None where the guide is not the model's own.
    state: of an earlier run, from which this one goes on. keep_state: is given it after each block.
    tol: a plateau is where the smoothed bound rises by less than this part of itself.
    """
    total = contract.num_rows(data) or 0
    batch = settings.batch_rows
    if batch is not None and batch > total:
        raise UserError(f"batch_rows is {batch}: the data have {total} rows")
    seen = None if batch is None else total
    estimator = None if settings.estimator is None else estimators.named(settings.estimator)
    problem = Problem(zoo, guide, settings.optimiser, settings.num_particles, seen, estimator)
    module = importlib.import_module(f"latentzoo.inference.svi_{library}")
    stepper = cast(Stepper, module.Stepper(problem, Start(_arrays(library, data, prior, params), seed, state)))
    batches = None if batch is None else _batches(total, batch, np.random.default_rng(seed))
    # A pass over all rows is one evaluation.
    per_step = settings.num_particles * (1.0 if batch is None else batch / total)
    plateau = Plateau(tol)
    level = 0
    for done in range(0, num_steps, BLOCK):
        size = min(BLOCK, num_steps - done)
        rates = settings.learning_rate * _multipliers(settings.schedule, level, done, size, num_steps)
        rows = None if batches is None else np.stack([next(batches) for _ in range(size)])
        losses = stepper.advance(rates, rows)
        keep_state(stepper.state())
        number, converged = done + size, ""
        if plateau.reached(-losses):
            level, plateau = level + 1, Plateau(tol)
        if _at_rest(settings.schedule, level, number == num_steps):
            converged = f"the smoothed bound no longer rises, at learning rate {rates[-1]:.3g}"
        yield Step(number, _params(zoo, params, stepper.values()), number * per_step, -float(losses.mean()), converged)


def _arrays(library: Library, data: Any, prior: Any, params: Params) -> tuple[Any, Any, Any]:
    auto = backend(library)

    def convert(_: str, leaf: Any) -> Any:
        return auto.ppl.array(leaf)

    with auto.precision():
        return tuple(contract.map_leaves(convert, tree) for tree in (data, prior, params))


def _multipliers(schedule: str, level: int, done: int, size: int, num_steps: int) -> np.ndarray:
    if schedule == "plateau":
        return np.full(size, LEVELS[min(level, len(LEVELS) - 1)])
    return DECAYS[schedule]((done + np.arange(size)) / num_steps)


def _at_rest(schedule: str, level: int, last: bool) -> bool:
    """Return whether a run has converged after so many plateaus: a rate that falls with the steps falls to its end."""
    if schedule == "plateau":
        return level == len(LEVELS)
    return level > 0 and (last or schedule == "constant")


def _batches(total: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of minibatches without end: each epoch visits the rows in a new order, but for a remainder."""
    while True:
        order = rng.permutation(total)
        for start in range(0, total - batch + 1, batch):
            yield order[start : start + batch]


def _params(zoo: "Entry", start: Params, values: dict[str, np.ndarray]) -> Params:
    """Return the parameters by the tree of the model; those of another guide are a dict by the names of their sites."""
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

    def __init__(self, tol: float):
        self._tol, self._means = tol, list[float]()

    def reached(self, elbos: np.ndarray) -> bool:
        """Take in a block of bounds; return whether the window is full and flat."""
        self._means = [*self._means, float(elbos.mean())][-WINDOW:]
        before, after = self._means[: WINDOW // 2], self._means[WINDOW // 2 :]
        rise = sum(after) / len(after) - sum(before) / len(before) if after else np.inf
        return len(self._means) == WINDOW and rise <= self._tol * abs(self._means[-1])
