"""`fit`: every method of every model, through one call."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference import alpha, ascent, coordinate_ascent, deep, exact, importance, mcmc, svi
from latentzoo.inference.checkpoint import Checkpoint
from latentzoo.inference.posterior import OwnGuide, bound_by_draws, own_guide, start_values
from latentzoo.inference.progress import progress as progress_bar
from latentzoo.inference.registry import Entry
from latentzoo.inference.relabel import aligned
from latentzoo.inference.result import Fit, Restart, versions
from latentzoo.inference.run import Record, Run, Step, Trace, drive
from latentzoo.inference.task import Method, Task, task_of
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.language.ppl import Library

MOST_DRAWS = 100_000  # times rows, of the bound of a deep model where its run ended


def fit(
    zoo: Entry,
    data: Any = None,
    method: str | Method | None = None,
    *,
    prior: Any = None,
    init: Params | Fit | None = None,
    library: Library | None = None,
    guide: Any = None,
    seed: int = 0,
    num_steps: int | None = None,
    num_restarts: int = 1,
    tol: float = 1e-8,
    max_seconds: float | None = None,
    validation: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    keep_history: bool = False,
    progress: bool = True,
    **options: Any,
) -> Fit:
    """Fit a model to data by one of its methods, or by one of your own.

    Parameters
    ----------
    zoo: the entry, `lz.get(...)`.
    data: its `Data`; left out where the model observes nothing.
    method: one of `zoo.methods`, the first by default; or a callable `(zoo, data, prior, params)` that returns new
        params, or yields them after each step. Its bound is evaluated by the hand-derived ELBO, off the clock.
    prior: its `Prior`; by default `zoo.prior(data)`. Methods of maximum likelihood ("em", "mle", "exact") leave out
        the priors of parameters that they hold at points.
    init: the parameters to start from, for the first restart; by default `zoo.init(data, prior, seed, method)`. From a
        fit by SVI of the same library, SVI goes on where that one stopped, with its optimiser and its random numbers.
    library: "numpyro" or "pyro", for a method that runs in either; NumPyro by default.
    guide: for SVI, the name or class of one of the library's AutoGuides, or a guide of your own, called with
        `(data, prior, params)` as `zoo.guide.numpyro` is; by default the model's guide.
    seed: of the starts and of all random numbers. The same seed gives the same fit, to the bit, on one machine.
    num_steps: a run stops there, with a `Note` that it has not converged; for NUTS, the draws of each chain.
    max_seconds: a run stops there, likewise; compilation is not counted.
    num_restarts: runs from different starts; the best is kept and all are reported. One with a flaw, such as a
        component that collapsed on a point, is the best only where all have one.
    validation: data whose log predictive density is watched, or of a deep model its bound: a run stops when 5 steps in
        a row (of a deep model `patience` steps) have not raised it, and the parameters of the step, and the restart,
        where it was highest are kept.
    checkpoint: a file that SVI writes every few seconds. Where it exists, the run goes on from it, and ends as it would
        have ended without a break, to the bit. It stays until you remove it, beside the one before it.
    tol: a run has converged when its bound rises by less than this part of itself.
    keep_history: keep the parameters of every step in `fit.history`.
    progress: draw a bar with the time left.
    options: the settings of the method: the fields of `Settings` in its module, such as `executor` of CAVI,
        `learning_rate` of SVI, `num_chains` of NUTS.

    Raises
    ------
    UserError: a value that cannot be used, by its name.
    """
    task = task_of(zoo, data, method, prior, library, seed, num_steps, tol, max_seconds, validation, options)
    contract.check_whole("num_restarts", num_restarts)
    if guide is not None and task.home is not svi:
        raise UserError(f"guide= is for method='svi': {task.name} has none")
    if guide is not None and zoo.is_point(task.name):
        raise UserError(f"guide= is for latent variables that all rows share: {zoo.name} has none")
    given = None if init is None else _start(zoo, init, task.plain_start(seed), own=guide is not None)
    first = task.start(seed) if given is None else given
    task = task._replace(given=given)
    if checkpoint is not None and (task.home is not svi or num_restarts > 1 or keep_history):
        raise UserError("checkpoint= is for method='svi', from one start and without its history: leave it out")
    if task.home is mcmc:
        return _sampled(task, first, num_restarts, progress)
    own = None
    if guide is not None:
        where = task.library or "numpyro"
        own = own_guide(zoo, where, guide, partial(start_values, zoo, task.data, task.prior, first, seed))
    resumed = init.state if isinstance(init, Fit) and init.label == task.label else {}
    saved = (
        None if checkpoint is None else Checkpoint(checkpoint, zoo, own is not None, task.identity(first, own, resumed))
    )
    return _climbed(task, first, own, dict(resumed), saved, num_restarts, keep_history, progress)


def best_seed(zoo: Entry, data: Any, prior: Any, num_starts: int, seed: int) -> int:
    """Return the seed, of so many, from whose start the model's first method ends highest.

    A fair start for methods that are to be compared, `zoo.init(data, prior, best, method)`: none is told what another
    found, and none starts where the model has a poor optimum.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = fit(zoo, data, prior=prior, seed=seed, num_restarts=num_starts, progress=False)
    best = next(index for index, run in enumerate(found.restarts) if run.params is found.params)
    return _seeds(seed, num_starts)[best]


def _start(zoo: Entry, init: Params | Fit, like: Params, own: bool) -> Params:
    """Return the parameters to start from, checked. own: the guide is not the model's, whose parameters it may lack."""
    if isinstance(init, Fit) and (init.guide or init.chains):
        if not own:
            raise UserError("init has no parameters of the model's guide: give a fit by cavi or svi, or params")
        return like._replace(theta=init.params.theta)
    return zoo.check_params(init.params if isinstance(init, Fit) else init, like=like)


# --- methods that climb a bound ---------------------------------------------------------------------------------------


class _Ended(NamedTuple):
    """A run from one start, its bound with the Monte Carlo error, and the state that SVI would go on from."""

    run: Run
    elbo: float
    error: float
    state: dict[str, np.ndarray]

    def restart(self, task: Task) -> Restart:
        """Return what the fit tells of it."""
        run = self.run
        return Restart(
            self.elbo, run.converged, int(run.trace.step[-1]), run.params, task.flaw(run.params), _known(run.score)
        )


def _climbed(
    task: Task,
    first: Params,
    guide: OwnGuide | None,
    state: dict[str, np.ndarray],
    checkpoint: Checkpoint | None,
    num_restarts: int,
    keep_history: bool,
    progress: bool,
) -> Fit:
    """Run a method from each start and keep the best."""
    saved = None if checkpoint is None else checkpoint.read(first)
    state, record = (state, Record()) if saved is None else saved
    ended: list[_Ended] = []
    with progress_bar(f"{task.zoo.name} {task.label}", task.num_steps * num_restarts, progress) as update:
        for restart, (seed, start) in enumerate(_starts(task, first, num_restarts)):
            kept: dict[str, np.ndarray] = {} if restart else state
            run = drive(
                _steps(task, guide, start, seed, kept),
                num_steps=task.num_steps,
                max_seconds=task.max_seconds,
                bound=lambda params: task.zoo.elbo(params, task.data, task.prior),
                score=task.score,
                patience=task.patience,
                keep_history=keep_history,
                report=partial(_report, update, task, restart, kept, checkpoint),
                record=record,
            )
            if checkpoint is not None:
                checkpoint.write_now(kept, record)
            record = Record()
            ended.append(_Ended(run, *_bound(task, guide, run), svi.at_rest(kept)))
    return _best(task, guide, ended)


def _best(task: Task, guide: OwnGuide | None, ended: list[_Ended]) -> Fit:
    """Return the fit of the best run, with a note where it has not converged, or has a flaw."""
    restarts = tuple(each.restart(task) for each in ended)
    chosen = max(range(len(ended)), key=lambda index: _rank(restarts[index]))
    best, elbo, error, state = ended[chosen]
    if not np.isfinite(elbo):
        raise UserError(
            f"{best.reason}: the prior or the data are too extreme for float64; change their units or scale"
        )
    if not best.converged:
        warnings.warn(f"{task.label} has not converged: {best.reason}", Note, stacklevel=4)
    if restarts[chosen].flaw:
        warnings.warn(restarts[chosen].flaw, Note, stacklevel=4)
    return Fit(
        entry=task.zoo,
        prior=task.prior,
        params=best.params,
        method=task.name,
        library=task.library,
        seed=task.seed,
        elbo=elbo,
        elbo_error=error,
        trace=best.trace,
        compile_seconds=sum(each.run.compile_seconds for each in ended),
        converged=best.converged,
        reason=best.reason,
        restarts=restarts,
        versions=versions(),
        guide=guide,
        state=state,
        history=best.history,
        data=task.data,
    )


def _rank(restart: Restart) -> tuple[bool, float]:
    """Return what the best restart has most of: no flaw, the highest score where one is kept, else the bound."""
    worth = restart.elbo if restart.validation is None else restart.validation
    return not restart.flaw, float(np.nan_to_num(worth, nan=-np.inf))


def _known(score: float) -> float | None:
    return None if np.isnan(score) else score


def _seeds(seed: int, num_restarts: int) -> list[int]:
    """Return the seed of each restart."""
    others = (np.random.SeedSequence([seed, restart]).generate_state(1)[0] for restart in range(1, num_restarts))
    return [seed, *map(int, others)]


def _starts(task: Task, first: Params, num_restarts: int) -> Iterator[tuple[int, Params]]:
    """Yield the seed and the start of each restart: the first, and seeded ones."""
    for restart, seed in enumerate(_seeds(task.seed, num_restarts)):
        yield seed, task.start(seed) if restart else first


def _steps(
    task: Task, guide: OwnGuide | None, start: Params, seed: int, state: dict[str, np.ndarray]
) -> Iterator[Step]:
    """Return the steps of the method; SVI goes on from the state, where it has one, and keeps it up to date."""
    zoo, data, prior = task.zoo, task.data, task.prior
    if task.own is not None:
        return _own_steps(task.own(zoo, data, prior, start))
    if task.home is svi:
        begin = start if guide is None else Params(theta=start.theta)
        program = zoo.guide.on(task.library) if guide is None else guide.program  # type: ignore[arg-type]
        return svi.steps(
            zoo,
            data,
            prior,
            begin,
            library=task.library,  # type: ignore[arg-type]
            guide=program,
            settings=task.settings,
            seed=seed,
            num_steps=task.num_steps,
            tol=task.tol,
            state=dict(state) or None,
            keep_state=state.update,
        )
    if task.home is exact:
        return exact.steps(zoo.closed_form, task.name, task.given, data, prior, zoo.spec)
    if task.home in (ascent, alpha):
        return task.home.steps(zoo.closed_form, data, prior, zoo.spec, start, settings=task.settings, tol=task.tol)
    e_step = task.settings.over(zoo.closed_form.e_step, data)
    return coordinate_ascent.steps(zoo.closed_form, e_step, data, prior, zoo.spec, start, tol=task.tol)


def _own_steps(found: Iterator[Params] | Params) -> Iterator[Step]:
    """Yield the steps of a method of the user's own: one evaluation each, as far as anyone can tell."""
    for number, params in enumerate([found] if isinstance(found, Params) else found, 1):
        if not isinstance(params, Params):
            raise UserError(f"your method gave a {type(params).__name__}: it must return or yield Params")
        yield Step(number, params, number)


def _bound(task: Task, guide: OwnGuide | None, run: Run) -> tuple[float, float]:
    """Return the bound where a run ended, with its Monte Carlo error: hand-derived for the model's own guide."""
    if guide is not None:
        where = task.library or "numpyro"
        return bound_by_draws(task.zoo, where, guide, task.data, task.prior, run.params, task.seed)
    if task.home is svi and not task.zoo.is_exact:
        num_draws = int(np.clip(MOST_DRAWS // (contract.num_rows(task.data) or 1), 2, deep.BOUND_DRAWS))
        return deep.bound(task.zoo, task.data, task.prior, run.params, num_draws=num_draws, seed=task.seed)
    if task.home is svi:  # its trace has estimates
        return task.zoo.elbo(run.params, task.data, task.prior), 0.0
    return run.elbo, 0.0


def _report(
    update: Callable[[int, str], None],
    task: Task,
    restart: int,
    state: dict[str, np.ndarray],
    checkpoint: Checkpoint | None,
    record: Record,
) -> None:
    """Move the bar, by steps or by seconds, whichever is nearer to its limit; write a checkpoint where one is due."""
    number, elbo, seconds, _ = record.columns[-1]
    part = max(number / task.num_steps, seconds / (task.max_seconds or np.inf))
    rate = f", {number / seconds:.3g} steps a second" if seconds > 0.0 else ""
    update(int((restart + min(part, 1.0)) * task.num_steps), f"ELBO {elbo:.6g}{rate}")
    if checkpoint is not None:
        checkpoint.write(state, record)


# --- samplers ---------------------------------------------------------------------------------------------------------


def _sampled(task: Task, first: Params, num_restarts: int, progress: bool) -> Fit:
    """Run a sampler; its chains are its restarts."""
    if num_restarts != 1:
        raise UserError(f"num_restarts is {num_restarts}: {task.name} has chains instead, num_chains=")
    library, settings = task.library or "numpyro", task.settings
    total = mcmc.num_transitions(library, task.num_steps, settings.num_warmup, settings.num_chains)
    with progress_bar(f"{task.zoo.name} {task.label}", total, progress) as update:
        chains = mcmc.sample(
            task.zoo,
            task.data,
            task.prior,
            first,
            library=library,
            seed=task.seed,
            num_draws=task.num_steps,
            max_seconds=task.max_seconds,
            report=update,
            **dataclasses.asdict(settings),
        )
    each = [{site: values[index] for site, values in chains.draws.items()} for index in range(settings.num_chains)]
    chains = chains._replace(draws=aligned(each, task.zoo.dims(), task.zoo.exchangeable(task.prior)))
    found = importance.of_chains(chains.draws, chains.stats)
    agreed = f"largest R-hat {found['r_hat']:.4f}, smallest bulk ESS {found['ess_bulk']:.0f}"
    converged = not chains.reason and bool(found["r_hat"] < importance.GOOD_R_HAT)
    reason = chains.reason or (agreed if settings.num_chains > 1 else "one chain alone has no R-hat")
    if not converged:
        warnings.warn(f"{task.label} has not converged: {reason}", Note, stacklevel=3)
    row = (task.num_steps, np.nan, chains.seconds, chains.num_gradients)
    return Fit(
        entry=task.zoo,
        prior=task.prior,
        params=Params(theta=first.theta),
        method=task.name,
        library=library,
        seed=task.seed,
        elbo=np.nan,
        trace=Trace(*(np.array([value]) for value in row)),
        compile_seconds=chains.compile_seconds,
        converged=converged,
        reason=reason,
        restarts=(),
        versions=versions(),
        chains=chains,
        data=task.data,
    )
