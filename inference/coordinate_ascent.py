"""The loop of EM and CAVI: exact coordinate ascent on a bound, until it no longer rises."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.accumulate import EStep
from latentzoo.models.language.contract import Params

# The bound is a long sum, whose rounding is a multiple of the sum of its absolute terms: typically, and at the most.
ROUNDING = 2.0**3 * np.finfo(np.float64).eps
WORST_ROUNDING = 2.0**12 * np.finfo(np.float64).eps


class BoundFell(ArithmeticError):
    """An exact update lowered the bound by more than rounding: the update, or the bound, is wrong."""


class Ascent(NamedTuple):
    """One run: the parameters of the last bound, the bound and the seconds at each step, and how it ended."""

    params: Params
    elbo_trace: np.ndarray
    seconds_trace: np.ndarray
    converged: bool
    reason: str
    history: tuple[Params, ...]


def ascend(
    closed_form: ModuleType,
    e_step: EStep,
    data: Any,
    prior: Any,
    spec: Any,
    params: Params,
    *,
    num_steps: int,
    tol: float,
    max_seconds: float | None = None,
    keep_history: bool = False,
    report: Callable[[int, float], None] = lambda step, elbo: None,
) -> Ascent:
    """Alternate E and M steps from `params` until the bound rises by less than `tol` times itself.

    Parameters
    ----------
    closed_form: the module with `elbo` and `m_step`.
    e_step: its E step, as `accumulate` runs it.
    num_steps, max_seconds: the run stops there, unconverged.
    keep_history: keep the parameters of every step.
    report: called with each step and its bound.

    Raises
    ------
    BoundFell: an update lowered the bound by more than rounding.
    """
    start = time.perf_counter()
    trace: list[float] = []
    seconds: list[float] = []
    history: list[Params] = []

    def run(converged: bool, reason: str) -> Ascent:
        return Ascent(params, np.array(trace), np.array(seconds), converged, reason, tuple(history))

    while True:
        stats = e_step(params, data, prior, spec)
        bound = float(closed_form.elbo(stats, params, prior, spec))
        trace.append(bound)
        seconds.append(time.perf_counter() - start)
        if keep_history:
            history.append(params)
        report(len(trace), bound)
        if not np.isfinite(bound):
            return run(False, f"the bound is {bound} at step {len(trace)}")
        if len(trace) > 1:
            rise, scale = bound - trace[-2], float(stats.scale)
            if rise < -WORST_ROUNDING * scale:
                raise BoundFell(f"step {len(trace)} lowered the bound by {-rise:.3g}, from {trace[-2]:.12g}")
            if rise <= max(tol * abs(bound), ROUNDING * scale):
                return run(True, f"the bound rose by less than {tol:g} of itself")
        if len(trace) >= num_steps:
            return run(False, f"num_steps = {num_steps} came first")
        if max_seconds is not None and seconds[-1] >= max_seconds:
            return run(False, f"max_seconds = {max_seconds:g} came first")
        params = closed_form.m_step(stats, params, prior, spec)
