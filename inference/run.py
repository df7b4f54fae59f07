"""THE loop of every method that climbs a bound: it keeps time and the trace, and knows when to stop.

A method is an iterator of steps. What it needs to go on it keeps to itself; when it has converged it says so in its
last step.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from latentzoo.inference.stopwatch import Stopwatch
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

ITS_END = "the method came to its end"


def label(method: str, library: str | None) -> str:
    """Return the name of a method, with the library where there is a choice: "cavi", "svi-pyro"."""
    return method if library is None else f"{method}-{library}"


class Step(NamedTuple):
    """Where a method is.

    number: of steps so far.
    params: at which the bound is, or was estimated.
    gradients: evaluations of the gradient, or E steps, so far: in passes over all rows.
    elbo: the bound, or an estimate of it; None asks the loop to evaluate it, off the clock.
    converged: why the method has converged; empty as long as it has not.
    """

    number: int
    params: Params
    gradients: float
    elbo: float | None = None
    converged: str = ""


class Trace(NamedTuple):
    """One entry for each step that a method told of: `elbo` in nats, `seconds` without those of compilation."""

    step: np.ndarray
    elbo: np.ndarray
    seconds: np.ndarray
    gradients: np.ndarray


class Run(NamedTuple):
    """A run from one start: the parameters of its last step, how it got there and why it ended."""

    params: Params
    trace: Trace
    compile_seconds: float
    converged: bool
    reason: str
    history: tuple[Params, ...]


def drive(
    steps: Iterator[Step],
    *,
    num_steps: int,
    max_seconds: float | None = None,
    bound: Callable[[Params], float] = lambda params: float("nan"),
    keep_history: bool = False,
    report: Callable[[int, float], None] = lambda step, elbo: None,
) -> Run:
    """Take steps until the method has converged, or one of the limits comes first.

    Parameters
    ----------
    steps: of the method.
    num_steps, max_seconds: the run stops there, unconverged.
    bound: evaluates the bound for a method that does not.
    keep_history: keep the parameters of every step.
    report: called with each step and its bound.

    Raises
    ------
    UserError: the method takes no step.
    """
    watch = Stopwatch()
    columns: list[tuple[int, float, float, float]] = []
    history: list[Params] = []
    while True:
        with watch:
            step = next(steps, None)
        if step is None:
            converged, reason = True, ITS_END
            break
        elbo = bound(step.params) if step.elbo is None else step.elbo
        columns.append((step.number, elbo, watch.running, step.gradients))
        params = step.params
        if keep_history:
            history.append(params)
        report(step.number, elbo)
        converged, reason = _verdict(step, elbo, watch.running, num_steps, max_seconds)
        if reason:
            break
    if not columns:
        raise UserError("the method came to its end: it has taken no step")
    trace = Trace(*(np.array(column) for column in zip(*columns, strict=True)))
    return Run(params, trace, watch.compiling, converged, reason, tuple(history))


def _verdict(step: Step, elbo: float, seconds: float, num_steps: int, max_seconds: float | None) -> tuple[bool, str]:
    """Return whether the run has converged, and why it ends here; no reason where it goes on."""
    if not np.isfinite(elbo):
        return False, f"the bound is {elbo} at step {step.number}"
    if step.converged:
        return True, step.converged
    if step.number >= num_steps:
        return False, f"num_steps = {num_steps} came first"
    if max_seconds is not None and seconds >= max_seconds:
        return False, f"max_seconds = {max_seconds:g} came first"
    return False, ""
