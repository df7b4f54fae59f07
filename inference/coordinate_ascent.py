"""EM and CAVI: exact coordinate ascent on a bound, until it no longer rises."""

import dataclasses
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from latentzoo.inference import accumulate
from latentzoo.inference.accumulate import EStep
from latentzoo.inference.kernels import executors
from latentzoo.inference.kernels.executors import Executor
from latentzoo.inference.run import Step
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Library

# The bound is a long sum, whose rounding is a multiple of the sum of its absolute terms: typically, and at the most.
ROUNDING = 2.0**3 * np.finfo(np.float64).eps
WORST_ROUNDING = 2.0**12 * np.finfo(np.float64).eps

NUM_STEPS = 1000
LIBRARIES: tuple[Library, ...] = ()  # it runs on arrays alone


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen.

    chunk_rows: visit the rows in chunks of this many; the whole by default.
    executor: what runs the hot loops: "numpy", "numba", or "jax" on all its devices; by default what suits the data and
        the machine.
    """

    chunk_rows: int | None = None
    executor: Executor = "auto"

    def __post_init__(self) -> None:
        if self.chunk_rows is not None:
            contract.check_whole("chunk_rows", self.chunk_rows)
        executors.check(self.executor)

    def over(self, e_step: EStep, data: Any) -> EStep:
        """Return the E step as it runs over the data."""
        if self.chunk_rows is not None:
            e_step = accumulate.in_chunks(e_step, self.chunk_rows)
        if executors.runs_jax(self.executor, contract.num_rows(data) or 0):
            return accumulate.on_devices(e_step)
        return accumulate.by(self.executor, e_step)


class BoundFell(ArithmeticError):
    """An exact update lowered the bound by more than rounding: the update, or the bound, is wrong."""


def steps(
    closed_form: ModuleType, e_step: EStep, data: Any, prior: Any, spec: Any, params: Params, *, tol: float
) -> Iterator[Step]:
    """Alternate E and M steps from `params` until the bound rises by less than `tol` times itself.

    closed_form: the module with `elbo` and `m_step`. e_step: its E step, as `accumulate` runs it.

    Raises
    ------
    BoundFell: an update lowered the bound by more than rounding, and the closed form does not say that its updates are
        `inexact(spec)`.
    """
    previous, inexact = -np.inf, hasattr(closed_form, "inexact") and closed_form.inexact(spec)
    for number in itertools.count(1):
        stats = e_step(params, data, prior, spec)
        bound = float(closed_form.elbo(stats, params, prior, spec))
        rise, scale = bound - previous, float(stats.scale)
        if rise < -WORST_ROUNDING * scale and not inexact:
            raise BoundFell(f"step {number} lowered the bound by {-rise:.3g}, from {previous:.12g}")
        done = (abs(rise) if inexact else rise) <= max(tol * abs(bound), ROUNDING * scale)
        yield Step(number, params, number, bound, f"the bound rose by less than {tol:g} of itself" if done else "")
        params, previous = closed_form.m_step(stats, params, prior, spec), bound
