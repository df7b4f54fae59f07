"""`fit`: every method of every model, through one call."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from latentzoo.inference import accumulate
from latentzoo.inference.coordinate_ascent import Ascent, ascend
from latentzoo.inference.progress import progress as progress_bar
from latentzoo.inference.registry import Entry
from latentzoo.inference.result import Fit, Restart, versions
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError, choose


def fit(
    zoo: Entry,
    data: Any,
    method: str | None = None,
    *,
    prior: Any = None,
    init: Params | None = None,
    seed: int = 0,
    num_steps: int = 1000,
    num_restarts: int = 1,
    tol: float = 1e-8,
    max_seconds: float | None = None,
    chunk_rows: int | None = None,
    keep_history: bool = False,
    progress: bool = True,
) -> Fit:
    """Fit a model to data by one of its methods.

    Parameters
    ----------
    zoo: the entry, `lz.get(...)`.
    data: its `Data`.
    method: one of `zoo.methods`; the first by default.
    prior: its `Prior`; by default `zoo.prior(data)`.
    init: the parameters to start from, for the first restart; by default `zoo.init(data, prior, seed)`.
    seed: of the starts. The same seed gives the same fit, to the bit, on one machine.
    num_steps, max_seconds: a run stops there, with a `Note` that it has not converged.
    num_restarts: runs from different starts; the best is kept and all are reported.
    tol: a run has converged when its bound rises by less than this part of itself.
    chunk_rows: visit the rows in chunks of this many; the whole by default.
    keep_history: keep the parameters of every step in `fit.history`.
    progress: draw a bar with the time left.

    Raises
    ------
    UserError: a value that cannot be used, by its name.
    """
    method = choose(method or zoo.methods[0], zoo.methods, f"method of {zoo.name}")
    contract.check_whole("num_steps", num_steps)
    contract.check_whole("num_restarts", num_restarts)
    if chunk_rows is not None:
        contract.check_whole("chunk_rows", chunk_rows)
    contract.check_whole("seed", seed, least=0)
    _check_number("tol", tol, 0.0)
    if max_seconds is not None:
        _check_number("max_seconds", max_seconds, 1e-9)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior)
    start = zoo.init(data, prior, seed)
    first = start if init is None else zoo.check_params(init, like=start)
    e_step = zoo.closed_form.e_step
    run = e_step if chunk_rows is None else accumulate.in_chunks(e_step, chunk_rows)

    climb = partial(
        ascend,
        zoo.closed_form,
        run,
        data,
        prior,
        zoo.spec,
        num_steps=num_steps,
        tol=tol,
        max_seconds=max_seconds,
        keep_history=keep_history,
    )
    ascents: list[Ascent] = []
    with progress_bar(f"{zoo.name} {method}", num_steps * num_restarts, progress) as update:
        for restart, origin in enumerate(_starts(zoo, data, prior, first, seed, num_restarts)):
            ascents.append(climb(origin, report=partial(_report, update, restart * num_steps)))
    best = max(ascents, key=lambda ascent: np.nan_to_num(ascent.elbo_trace[-1], nan=-np.inf))
    if not np.isfinite(best.elbo_trace[-1]):
        raise UserError(
            f"{best.reason}: the prior or the data are too extreme for float64; change their units or scale"
        )
    if not best.converged:
        warnings.warn(f"{method} has not converged: {best.reason}", Note, stacklevel=2)
    return Fit(
        entry=zoo,
        prior=prior,
        params=best.params,
        method=method,
        library=None,
        seed=seed,
        elbo_trace=best.elbo_trace,
        seconds_trace=best.seconds_trace,
        converged=best.converged,
        reason=best.reason,
        restarts=tuple(Restart(float(a.elbo_trace[-1]), a.converged, len(a.elbo_trace)) for a in ascents),
        versions=versions(),
        history=best.history,
        data=data,
    )


def _report(update: Callable[[int, str], None], before: int, step: int, elbo: float) -> None:
    update(before + step, f"ELBO {elbo:.6g}")


def _starts(zoo: Entry, data: Any, prior: Any, first: Params, seed: int, num_restarts: int) -> Iterator[Params]:
    """Yield the start of each restart: the first, and seeded ones."""
    yield first
    for restart in range(1, num_restarts):
        yield zoo.init(data, prior, int(np.random.SeedSequence([seed, restart]).generate_state(1)[0]))


def _check_number(name: str, value: Any, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 2**32:
        raise UserError(f"{name} is {value!r}: it must be a number, at least {least:g} and below {2**32}")
