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
    """A run from one start: its last parameters, or those of the best score; how it got there and why it ended."""

    params: Params
    elbo: float
    score: float
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
    score: Callable[[Params], float] | None = None,
    patience: int = 1,
    keep_history: bool = False,
    report: Callable[[int, float], None] = lambda step, elbo: None,
) -> Run:
    """Take steps until the method has converged, or one of the limits comes first.

    Parameters
    ----------
    steps: of the method.
    num_steps, max_seconds: the run stops there, unconverged.
    bound: evaluates the bound for a method that does not.
    score: of parameters, off the clock: those of the highest are returned, and the run stops early when `patience`
        steps in a row have not been better; without one, those of the last step are.
    keep_history: keep the parameters of every step.
    report: called with each step and its bound.

    Raises
    ------
    UserError: the method takes no step.
    """
    watch = Stopwatch()
    columns: list[tuple[int, float, float, float]] = []
    history: list[Params] = []
    best: tuple[float, float, Step] | None = None
    while True:
        with watch:
            step = next(steps, None)
        if step is None:
            converged, reason = True, ITS_END
            break
        elbo = bound(step.params) if step.elbo is None else step.elbo
        columns.append((step.number, elbo, watch.running, step.gradients))
        if keep_history:
            history.append(step.params)
        report(step.number, elbo)
        worth = float(np.nan_to_num(score(step.params), nan=-np.inf)) if score else float(step.number)
        if best is None or worth > best[0]:
            best, since = (worth, elbo, step), len(columns)
        converged, reason = _verdict(step, elbo, watch.running, num_steps, max_seconds)
        if not reason and len(columns) - since >= patience:
            converged, reason = True, f"the score of held-out data was highest at step {best[2].number}"
        if reason:
            break
    if best is None:
        raise UserError("the method came to its end: it has taken no step")
    trace = Trace(*(np.array(column) for column in zip(*columns, strict=True)))
    worth, elbo, step = best
    return Run(step.params, elbo, worth if score else np.nan, trace, watch.compiling, converged, reason, tuple(history))


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
