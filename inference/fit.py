"""`fit`: every method of every model, through one call."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from latentzoo.inference import alpha, ascent, coordinate_ascent, deep, exact, importance, mcmc, svi
from latentzoo.inference.automatic import backend
from latentzoo.inference.posterior import (
    OwnGuide,
    bound_by_draws,
    has_log_predictive,
    log_predictive,
    own_guide,
    start_values,
)
from latentzoo.inference.progress import progress as progress_bar
from latentzoo.inference.registry import Entry
from latentzoo.inference.relabel import aligned
from latentzoo.inference.result import Fit, Restart, versions
from latentzoo.inference.run import Run, Step, Trace, drive, label
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError, choose
from latentzoo.models.language.ppl import Library

# Where each method is: a module with `Settings`, `NUM_STEPS` and `LIBRARIES`.
HOMES: dict[str, ModuleType] = {
    "cavi": coordinate_ascent,
    "em": coordinate_ascent,
    "map": coordinate_ascent,
    "ascent": ascent,
    "alpha": alpha,
    "exact": exact,
    "moments": exact,
    "mle": exact,
    "svi": svi,
    "nuts": mcmc,
}
PATIENCE = 5  # steps without a better score of the validation data, after which a run stops
# A method of the user's own: (zoo, data, prior, params) -> the parameters after each step, or after the only one.
Method = Callable[[Entry, Any, Any, Params], Iterator[Params] | Params]


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
    validation: data whose log predictive density is watched: a run stops when 5 steps in a row have not raised it, and
        the parameters of the step, and the restart, where it was highest are kept.
    tol: a run has converged when its bound rises by less than this part of itself.
    keep_history: keep the parameters of every step in `fit.history`.
    progress: draw a bar with the time left.
    options: the settings of the method: the fields of `Settings` in its module, such as `executor` of CAVI,
        `learning_rate` of SVI, `num_chains` of NUTS.

    Raises
    ------
    UserError: a value that cannot be used, by its name.
    """
    task = _task(zoo, data, method, prior, library, seed, num_steps, tol, max_seconds, validation, options)
    contract.check_whole("num_restarts", num_restarts)
    if guide is not None and task.home is not svi:
        raise UserError(f"guide= is for method='svi': {task.name} has none")
    if guide is not None and zoo.is_point(task.name):
        raise UserError(f"guide= is for latent variables that all rows share: {zoo.name} has none")
    start = task.start(seed)
    first = start if init is None else _start(zoo, init, start, own=guide is not None)
    task = task._replace(given=None if init is None else first)
    if task.home is mcmc:
        return _sampled(task, first, num_restarts, progress)
    own = None
    if guide is not None:
        where = task.library or "numpyro"
        own = own_guide(zoo, where, guide, partial(start_values, zoo, task.data, task.prior, first, seed))
    resumed = init.state if isinstance(init, Fit) and init.label == task.label else None
    return _climbed(task, first, own, dict(resumed or {}), num_restarts, keep_history, progress)


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


# --- what is asked for ------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A fit that is asked for, all of it checked.

    home: of the method; None of one of the user's own. given: the parameters that the user gave to start from.
    """

    zoo: Entry
    data: Any
    prior: Any
    name: str
    own: Method | None
    home: ModuleType | None
    settings: Any
    library: Library | None
    seed: int
    num_steps: int
    tol: float
    max_seconds: float | None
    validation: Any
    given: Params | None = None

    @property
    def label(self) -> str:
        return label(self.name, self.library)

    def start(self, seed: int) -> Params:
        """Return where the method starts from, by default."""
        return self.zoo.start(self.data, self.prior, seed, self.zoo.methods[0] if self.own else self.name)

    def score(self, params: Params) -> float:
        """Return the log predictive density of the validation data."""
        return float(log_predictive(self.zoo, self.validation, self.prior, params).sum())

    def flaw(self, params: Params) -> str:
        """Return why the parameters are no honest optimum, where the model can tell."""
        find = getattr(self.zoo.closed_form, "flaw", None)
        return find(params, self.data, self.prior, self.zoo.spec) if find and self.home is coordinate_ascent else ""


def _task(
    zoo: Entry,
    data: Any,
    method: str | Method | None,
    prior: Any,
    library: Library | None,
    seed: int,
    num_steps: int | None,
    tol: float,
    max_seconds: float | None,
    validation: Any,
    options: dict[str, Any],
) -> _Task:
    """Check all that a method is asked with."""
    contract.check_whole("seed", seed, least=0)
    contract.check_number("tol", tol, least=0.0)
    if max_seconds is not None:
        contract.check_number("max_seconds", max_seconds, above=0.0)
    own = method if callable(method) else None
    if callable(method):
        name, home, settings = getattr(method, "__name__", type(method).__name__), None, None
        contract.check_keywords(options, (), f"option of {name}")
    else:
        name = choose(method or zoo.methods[0], zoo.methods, f"method of {zoo.name}")
        home = HOMES[name]
        settings = contract.make_spec(home.Settings, options)
    num_steps = getattr(home, "NUM_STEPS", coordinate_ascent.NUM_STEPS) if num_steps is None else num_steps
    contract.check_whole("num_steps", num_steps, least=mcmc.LEAST_DRAWS if home is mcmc else 1)
    deep.check_by_hand(zoo)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior, data)
    if validation is not None:
        if home is not coordinate_ascent or not has_log_predictive(zoo):
            raise UserError(
                f"validation= is for EM and CAVI with an exact predictive density: {zoo.name} {name} has none"
            )
        validation = zoo.check_like(validation, data)
    library = _library(name, home, library)
    if library is not None:
        backend(library)  # its import is no part of any run's time
    prior = zoo.prior_for(name, prior)
    return _Task(zoo, data, prior, name, own, home, settings, library, seed, num_steps, tol, max_seconds, validation)


def _library(name: str, home: ModuleType | None, library: Library | None) -> Library | None:
    """Return the library that a method runs in: the one that is asked for, else its first."""
    known = home.LIBRARIES if home else ()
    if not known and library is not None:
        raise UserError(f"library is {library!r}: {name} needs none, leave it out")
    return cast(Library, choose(library or known[0], known, "library")) if known else None


def _start(zoo: Entry, init: Params | Fit, like: Params, own: bool) -> Params:
    """Return the parameters to start from, checked. own: the guide is not the model's, whose parameters it may lack."""
    if isinstance(init, Fit) and (init.guide or init.chains):
        if not own:
            raise UserError("init has no parameters of the model's guide: give a fit by cavi or svi, or params")
        return like._replace(theta=init.params.theta)
    return zoo.check_params(init.params if isinstance(init, Fit) else init, like=like)


# --- methods that climb a bound ---------------------------------------------------------------------------------------


def _climbed(
    task: _Task,
    first: Params,
    guide: OwnGuide | None,
    state: dict[str, np.ndarray],
    num_restarts: int,
    keep_history: bool,
    progress: bool,
) -> Fit:
    """Run a method from each start and keep the best."""
    runs: list[Run] = []
    bounds: list[tuple[float, float]] = []
    states: list[dict[str, np.ndarray]] = []
    with progress_bar(f"{task.zoo.name} {task.label}", task.num_steps * num_restarts, progress) as update:
        for restart, (seed, start) in enumerate(_starts(task, first, num_restarts)):
            kept: dict[str, np.ndarray] = {} if restart else state
            steps = _steps(task, guide, start, seed, kept)
            runs.append(
                drive(
                    steps,
                    num_steps=task.num_steps,
                    max_seconds=task.max_seconds,
                    bound=lambda params: task.zoo.elbo(params, task.data, task.prior),
                    score=None if task.validation is None else task.score,
                    patience=PATIENCE,
                    keep_history=keep_history,
                    report=partial(_report, update, restart * task.num_steps),
                )
            )
            bounds.append(_bound(task, guide, runs[-1]))
            states.append(kept)
    restarts = tuple(
        Restart(elbo, run.converged, int(run.trace.step[-1]), run.params, task.flaw(run.params), _known(run.score))
        for run, (elbo, _) in zip(runs, bounds, strict=True)
    )
    chosen = max(range(len(runs)), key=lambda index: _rank(restarts[index]))
    best, (elbo, error) = runs[chosen], bounds[chosen]
    if not np.isfinite(elbo):
        raise UserError(
            f"{best.reason}: the prior or the data are too extreme for float64; change their units or scale"
        )
    if not best.converged:
        warnings.warn(f"{task.label} has not converged: {best.reason}", Note, stacklevel=3)
    if restarts[chosen].flaw:
        warnings.warn(restarts[chosen].flaw, Note, stacklevel=3)
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
        compile_seconds=sum(run.compile_seconds for run in runs),
        converged=best.converged,
        reason=best.reason,
        restarts=restarts,
        versions=versions(),
        guide=guide,
        state=states[chosen],
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


def _starts(task: _Task, first: Params, num_restarts: int) -> Iterator[tuple[int, Params]]:
    """Yield the seed and the start of each restart: the first, and seeded ones."""
    for restart, seed in enumerate(_seeds(task.seed, num_restarts)):
        yield seed, task.start(seed) if restart else first


def _steps(
    task: _Task, guide: OwnGuide | None, start: Params, seed: int, state: dict[str, np.ndarray]
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


def _bound(task: _Task, guide: OwnGuide | None, run: Run) -> tuple[float, float]:
    """Return the bound where a run ended, with its Monte Carlo error: hand-derived for the model's own guide."""
    if guide is not None:
        where = task.library or "numpyro"
        return bound_by_draws(task.zoo, where, guide, task.data, task.prior, run.params, task.seed)
    if task.home is svi and not task.zoo.is_exact:
        return deep.bound(task.zoo, task.data, task.prior, run.params, seed=task.seed)
    if task.home is svi:  # its trace has estimates
        return task.zoo.elbo(run.params, task.data, task.prior), 0.0
    return run.elbo, 0.0


def _report(update: Callable[[int, str], None], before: int, step: int, elbo: float) -> None:
    update(before + step, f"ELBO {elbo:.6g}")


# --- samplers ---------------------------------------------------------------------------------------------------------


def _sampled(task: _Task, first: Params, num_restarts: int, progress: bool) -> Fit:
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
