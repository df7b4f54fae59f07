"""THE loop of every method that climbs a bound: it keeps time and the trace, and knows when to stop.

A method is an iterator of steps. What it needs to go on it keeps to itself; when it has converged it says so in its
last step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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


@dataclass
class Record:
    """How far a run has come: all that the loop needs to go on with it.

    columns: a row of the trace for each step told of. best: the step whose parameters are kept, with its score; where
    there is no score, the last. since: the number of rows when it was found. converged: what the last step said of it.
    """

    columns: list[tuple[float, float, float, float]] = field(default_factory=list)
    best: tuple[float, float, Step] | None = None
    since: int = 0
    converged: str = ""
    running: float = 0.0
    compiling: float = 0.0

    def take(self, step: Step, elbo: float, worth: float | None, watch: Stopwatch) -> None:
        """Take in a step, its bound, and what its parameters are worth: without a score, more than all before."""
        self.running, self.compiling, self.converged = watch.running, watch.compiling, step.converged
        self.columns.append((step.number, elbo, watch.running, step.gradients))
        worth = float(step.number) if worth is None else float(np.nan_to_num(worth, nan=-np.inf))
        if self.best is None or worth > self.best[0]:
            self.best, self.since = (worth, elbo, step), len(self.columns)

    def verdict(self, num_steps: int, max_seconds: float | None, patience: int) -> tuple[bool, str]:
        """Return whether the run has converged, and why it ends here; no reason where it goes on."""
        if self.best is None:
            return False, ""
        number, elbo, seconds, _ = self.columns[-1]
        if not np.isfinite(elbo):
            return False, f"the bound is {elbo} at step {number:.0f}"
        if self.converged:
            return True, self.converged
        if number >= num_steps:
            return False, f"num_steps = {num_steps} came first"
        if max_seconds is not None and seconds >= max_seconds:
            return False, f"max_seconds = {max_seconds:g} came first"
        if len(self.columns) - self.since >= patience:
            return True, f"the score of held-out data was highest at step {self.best[2].number}"
        return False, ""


def drive(
    steps: Iterator[Step],
    *,
    num_steps: int,
    max_seconds: float | None = None,
    bound: Callable[[Params], float] = lambda params: float("nan"),
    score: Callable[[Params], float] | None = None,
    patience: int = 1,
    keep_history: bool = False,
    report: Callable[[Record], None] = lambda record: None,
    record: Record | None = None,
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
    report: called after each step with how far the run has come.
    record: of an earlier part of the run, which this one goes on.

    Raises
    ------
    UserError: the method takes no step.
    """
    record = Record() if record is None else record
    watch = Stopwatch(record.running, record.compiling)
    history: list[Params] = []
    while not (verdict := record.verdict(num_steps, max_seconds, patience))[1]:
        with watch:
            step = next(steps, None)
        if step is None:
            verdict = True, ITS_END
            break
        elbo = bound(step.params) if step.elbo is None else step.elbo
        record.take(step, elbo, score(step.params) if score else None, watch)
        if keep_history:
            history.append(step.params)
        report(record)
    if record.best is None:
        raise UserError("the method came to its end: it has taken no step")
    trace = Trace(*(np.array(column) for column in zip(*record.columns, strict=True)))
    worth, elbo, best = record.best
    return Run(best.params, elbo, worth if score else np.nan, trace, record.compiling, *verdict, tuple(history))
