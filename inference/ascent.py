"""L-BFGS on a hand-derived bound whose gradient is exact: for models that have no update in closed form.

SciPy's own routine cannot be paused between two iterations, as the loop that keeps time and the trace asks of every
method: the directions are SciPy's, the search along them is by halves.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference.run import Step
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Library

NUM_STEPS = 1000
LIBRARIES: tuple[Library, ...] = ()  # it runs on arrays alone
MEMORY = 20  # moves that the curvature is read off
HALVINGS = 60
MOST_GROWTH = 10.0  # of a move over the one before: what is known of the bound is known near by
ROUNDING = np.finfo(np.float64).eps
PROMISED = 1e-4  # the part of the rise that the slope promises which a move must bring (Nocedal & Wright, 2006, 3.1)

Objective = Callable[[Params], tuple[float, Params]]  # the bound and its gradient
Flat = Float[np.ndarray, "numbers"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Nothing can be chosen."""


def steps(
    closed_form: ModuleType, data: Any, prior: Any, spec: Any, params: Params, *, settings: Settings, tol: float
) -> Iterator[Step]:
    """Climb the ELBO from `params` until it rises by less than `tol` times itself.

    closed_form: the module with `e_step`, `elbo` and `elbo_gradient`.
    """

    def objective(at: Params) -> tuple[float, Params]:
        stats = closed_form.e_step(at, data, prior, spec)
        bound = float(closed_form.elbo(stats, at, prior, spec))
        return bound, closed_form.elbo_gradient(stats, at, prior, spec)

    return climb(objective, params, tol)


def climb(objective: Objective, params: Params, tol: float) -> Iterator[Step]:
    """Yield the steps of L-BFGS up a bound of any real-valued params; it never falls."""
    surface = _Surface(objective, params)
    here, memory = surface.at(contract.flat(params)), deque[tuple[Flat, Flat]](maxlen=MEMORY)
    for number in itertools.count(1):
        there = _along(surface, here, _direction(here, memory))
        if there is None and memory:  # the curvature may mislead, where the slope does not
            memory.clear()
            there = _along(surface, here, _direction(here, memory))
        if there is None:
            yield Step(number, surface.params(here), surface.calls, here.bound, "the bound rises no more up its slope")
            return
        move, turn, rise = there.point - here.point, here.slope - there.slope, there.bound - here.bound
        if move @ turn > 0.0:  # else the bound bends upwards there, and tells of no maximum
            memory.append((move, turn))
        here = there
        done = f"the bound rose by less than {tol:g} of itself" if rise <= tol * abs(here.bound) else ""
        yield Step(number, surface.params(here), surface.calls, here.bound, done)


class _Place(NamedTuple):
    """A point on the way, with the bound and its gradient there."""

    point: Flat
    bound: float
    slope: Flat


class _Surface:
    """The bound as a function of a vector; counts how often it is evaluated."""

    def __init__(self, objective: Objective, like: Params):
        self._objective, self._like, self.calls = objective, like, 0

    def at(self, point: Flat) -> _Place:
        self.calls += 1
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            bound, gradient = self._objective(self._tree(point))
        return _Place(point, bound, contract.flat(gradient))

    def params(self, place: _Place) -> Params:
        return self._tree(place.point)

    def _tree(self, point: Flat) -> Params:
        return contract.from_flat(point, self._like)


def _direction(here: _Place, memory: deque[tuple[Flat, Flat]]) -> Flat:
    """Return the way to where the curvature of the last moves has the maximum, or a part of it.

    Without any moves it is one of length one, up the slope.
    """
    from scipy.optimize import LbfgsInvHessProduct

    if not memory:
        return here.slope / max(float(np.linalg.norm(here.slope)), np.finfo(np.float64).tiny)
    moves, turns = map(np.array, zip(*memory, strict=True))
    # The inverse curvature that SciPy's product begins with is 1: numbers are measured in units in which it is.
    unit = np.sqrt(moves[-1] @ turns[-1]) / np.linalg.norm(turns[-1])
    found = unit**2 * LbfgsInvHessProduct(moves / unit, turns * unit).matvec(here.slope)
    longest = MOST_GROWTH * np.linalg.norm(moves[-1])
    return found * min(1.0, float(longest / np.linalg.norm(found)))


def _along(surface: _Surface, here: _Place, direction: Flat) -> _Place | None:
    """Return the first of ever shorter moves that brings enough of a rise; None where none does."""
    promised = float(here.slope @ direction)
    if not promised > 0.0:
        return None
    for halvings in range(HALVINGS):
        length = 0.5**halvings
        if length * promised < ROUNDING * abs(here.bound):
            return None
        there = surface.at(here.point + length * direction)
        if there.bound - here.bound > PROMISED * length * promised and np.isfinite(there.slope).all():
            return there
    return None
