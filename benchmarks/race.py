"""Every method that climbs a bound, from the same start: how near it comes to the best bound, and at what cost."""

import functools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks import race_picture, race_report
from latentzoo.benchmarks.data_sets import Source, Task, sources
from latentzoo.benchmarks.race_gaps import MOST_POINTS, Descent, Standing, Track, compared, thinned
from latentzoo.benchmarks.report import by_data_set
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference import fit as fitting
from latentzoo.inference import svi
from latentzoo.inference.pictures import write
from latentzoo.inference.registry import Entry, get
from latentzoo.inference.result import Fit
from latentzoo.inference.run import label
from latentzoo.inference.task import HOMES
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.language.ppl import Library

SUITE = "methods that climb a bound, from the same start: how near they come, in seconds and in gradients"
NUM_ROWS = {True: 500, False: 5_000}  # quick or not
NUM_SEEDS = {True: 2, False: 5}
MAX_SECONDS = {True: 3.0, False: 60.0}  # of a run, compilation apart
NUM_STEPS: int | None = None  # of a run: the method's own
LEARNING_RATES = {True: (0.01, 0.03, 0.1), False: (0.003, 0.01, 0.03, 0.1, 0.3)}
WARM_UP = svi.BLOCK + 1  # steps: a library may compile at the first look at the bound and at the second
NUM_STARTS = 10  # of which the best is where a seed's runs begin
MINIBATCHES = 10  # of which one is a minibatch


class Contestant(NamedTuple):
    """A method, in a library where it needs one, with the whole data or with minibatches."""

    method: str
    library: Library | None = None
    minibatches: bool = False

    @property
    def name(self) -> str:
        """The name in rows and tables."""
        name = label(self.method, self.library)
        return f"{name}, minibatches" if self.minibatches else name

    def rates(self, quick: bool) -> Sequence[float | None]:
        """Return the learning rates that are tried; a closed form has none."""
        return (None,) if self.library is None else LEARNING_RATES[quick]


class Run(NamedTuple):
    """A run of a contestant, which is one unit of work."""

    contestant: Contestant
    rate: float | None
    seed: int

    @property
    def name(self) -> str:
        """The name in rows."""
        rate = "" if self.rate is None else f", learning_rate={self.rate:g}"
        return f"{self.contestant.name}{rate}, seed={self.seed}"


def contestants(zoo: Entry) -> list[Contestant]:
    """Return the closed forms that an entry declares, and SVI in each library; a sampler climbs no bound.

    Complete data, which "mle" needs, are no race.
    """
    closed = [method for method in zoo.methods if method != "mle" and not HOMES[method].LIBRARIES]
    found = [Contestant(method) for method in closed]
    if "svi" not in zoo.methods:
        return found
    return [*found, *(Contestant("svi", library) for library in svi.LIBRARIES), Contestant("svi", "numpyro", True)]


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each run on each data set, and after them one that sums them up.

    Seeds go round last: when the machine slows down, it does so for all contestants. A model that observes nothing has
    no data to race on.
    """
    seeds = range(context.seed, context.seed + NUM_SEEDS[context.quick])
    for source in sources(context, NUM_ROWS[context.quick]):
        if not get(source.entry).has_rows:
            continue
        for course, field in courses(source):
            runs = [Run(one, rate, seed) for seed in seeds for one in field for rate in one.rates(context.quick)]
            named = {f"{course.name}/{run.name}": run for run in runs}
            for name, run in named.items():
                yield Unit(name, partial(_measured, course, run, context))
            works = {f"race/{name}": run for name, run in named.items()}
            yield Unit(f"{course.name}/summary", partial(_summed_up, course, works, context), reads=tuple(named))


def courses(source: Source) -> Iterator[tuple["Course", list[Contestant]]]:
    """Yield a course for each objective of an entry's methods, and who runs there: other bounds do not compare."""
    zoo = get(source.entry)
    groups: dict[str, list[Contestant]] = defaultdict(list)
    for contestant in contestants(zoo):
        groups[zoo.objective(contestant.method)].append(contestant)
    for objective, field in groups.items():
        yield Course(source, objective if len(groups) > 1 else ""), field


# --- a run ------------------------------------------------------------------------------------------------------------


class Course:
    """Where contestants run: a data set, loaded when the first one needs it, with the start of each seed.

    objective: what they climb, where the entry has several.
    """

    def __init__(self, source: Source, objective: str = ""):
        self._source, self._objective = source, objective
        self._best: dict[int, int] = {}
        self._warm: set[Contestant] = set()

    @functools.cached_property
    def task(self) -> Task:
        """The data set."""
        return self._source.load()

    @property
    def name(self) -> str:
        """The name of the course among those of all entries."""
        return f"{self._source.name}, {self._objective}" if self._objective else self._source.name

    @property
    def data(self) -> str:
        """The name of the data, and of what is climbed where there is a choice."""
        return f"{self.task.name}, {self._objective}" if self._objective else self.task.name

    def start(self, run: "Run") -> Params:
        """Return where a run begins: of so many starts the one from which the first closed form ends highest."""
        zoo, data, prior, seed = self.task.zoo, self.task.data, self.task.prior, run.seed
        if seed not in self._best:
            self._best[seed] = fitting.best_seed(zoo, data, prior, num_starts=NUM_STARTS, seed=seed)
        return zoo.init(data, prior, self._best[seed], run.contestant.method)

    def elbo(self, run: "Run", params: Params) -> float:
        """Return the bound, hand-derived."""
        zoo = self.task.zoo
        return zoo.elbo(params, self.task.data, zoo.prior_for(run.contestant.method, self.task.prior))

    def warm_up(self, run: Run) -> float:
        """Take some steps before the first run of a contestant in this process; return the seconds to compile.

        What a library imports and compiles when it is first used is then no part of any run.
        """
        if run.contestant in self._warm:
            return 0.0
        self._warm.add(run.contestant)
        return self.fit(run, num_steps=WARM_UP).compile_seconds

    def fit(self, run: Run, **limits: Any) -> Fit:
        """Run from the start of the seed; whether it converged is in a row, and no warning."""
        method, library, minibatches = run.contestant
        options: dict[str, Any] = {} if run.rate is None else {"learning_rate": run.rate}
        if minibatches:
            options["batch_rows"] = max(1, (contract.num_rows(self.task.data) or 0) // MINIBATCHES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)
            return fitting.fit(
                self.task.zoo,
                self.task.data,
                method,
                prior=self.task.prior,
                init=self.start(run),
                library=library,
                seed=run.seed,
                keep_history=True,
                progress=False,
                **limits,
                **options,
            )


def _measured(course: Course, run: Run, context: Context) -> Iterator[Row]:
    """Yield the one row of a run. One that leaves the numbers of float64 is a row, too: no learning rate is too large.

    Its curve ends where it began.
    """
    begin = course.elbo(run, course.start(run))
    row = partial(Row, "race", "ELBO", entry=course.task.zoo.name, variant=run.name, data=course.data)
    row = partial(row, library=run.contestant.library or "", unit="nats", reference=begin)
    try:
        compiling = course.warm_up(run)
        fit = course.fit(run, num_steps=NUM_STEPS, max_seconds=MAX_SECONDS[context.quick])
    except UserError as error:
        yield row(ok=False, note=str(error), curve=Track.at(begin).curve)
        return
    yield row(
        value=fit.elbo,
        ok=bool(np.isfinite(fit.elbo) and fit.elbo >= begin),
        seconds=fit.seconds,
        compile_seconds=compiling + fit.compile_seconds,
        note=fit.reason,
        curve=track(course, run, fit, begin).curve,
    )


def track(course: Course, run: Run, fit: Fit, begin: float) -> Track:
    """Return the way of a fit: its exact bound, off the clock, at the points that are kept."""
    kept = thinned(len(fit.history) + 1)
    elbo = [begin if point == 0 else course.elbo(run, fit.history[point - 1]) for point in kept]
    spent = (fit.trace.step, fit.trace.seconds, fit.trace.gradients)
    step, seconds, gradients = (np.append(0.0, values)[kept] for values in spent)
    return Track(step, seconds, gradients, np.array(elbo))


# --- what the runs of a data set come to ------------------------------------------------------------------------------


def _summed_up(course: Course, runs: Mapping[str, Run], context: Context) -> Iterator[Row]:
    """Yield how the contestants compare, and draw it. runs: by their unit of work."""
    made = {row.work: row for row in context.rows()}
    rows = {run: made[work] for work, run in runs.items() if work in made and made[work].curve is not None}
    if not rows:
        raise UserError("no run of this data set came to its end")
    tracks = {run: Track.of(row.curve) for run, row in rows.items() if row.curve is not None}
    best = max(float(np.nanmax(track.elbo)) for track in tracks.values())
    task, num_seeds = course.task, len({run.seed for run in tracks})
    about = f"{task.options}; {task.about}; the highest of {len(tracks)} runs, {num_seeds} seeds"
    row = partial(Row, "race", entry=task.zoo.name, data=course.data)
    yield row(race_report.BEST, value=best, unit="nats", note=about)
    # The first run of a contestant compiles, and so does the first one after a stop.
    compiling = {run: rows[run].compile_seconds or 0.0 for run in rows}
    standings = [
        _standing(one, {run: track.descent(best) for run, track in tracks.items() if run.contestant == one}, compiling)
        for one in dict.fromkeys(run.contestant for run in tracks)
    ]
    yield from compared(standings, row)
    picture = context.folder / _picture(task.zoo.name, course.data)
    write(race_picture.draw(standings, f"{task.zoo.name}, {course.data}"), picture)


def _standing(one: Contestant, descents: Mapping[Run, Descent], compiling: Mapping[Run, float]) -> Standing:
    grid: dict[float | None, dict[int, Descent]] = defaultdict(dict)
    for run, descent in descents.items():
        grid[run.rate][run.seed] = descent
    return Standing.of(one.name, one.library or "", grid, max(compiling[run] for run in descents))


def _picture(entry: str, data: str) -> Path:
    return Path("race") / entry / data / "race.png"


def _rates(rows: Sequence[Row]) -> str:
    """Return the learning rates that were tried, by the names of the runs."""
    found = {float(rate) for row in rows for rate in re.findall(r"learning_rate=([\d.e-]+)", row.variant)}
    return ", ".join(f"{rate:g}" for rate in sorted(found))


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return what is raced and how, and for each data set its tables and its picture."""
    intro = (
        "Every closed form of a model, and SVI in each library and with minibatches of a tenth of the rows, start at"
        f" the same parameters: for each seed at that of {NUM_STARTS} starts from which the closed form ends highest."
        " The bound is the hand-derived one, exact, evaluated off the clock at the parameters on the way; seconds leave"
        " out compilation and a first warm-up, and gradients are counted in passes over all rows. SVI runs at each"
        f" learning rate of {_rates(rows)}, its other settings the defaults;"
        " samplers, such as NUTS, climb no bound and take no part.\n\n"
        "The remaining gap is (best - bound) / (best - start), where best is the highest bound of all runs. What a gap"
        f" cost is read at the first recorded point within it: a closed form has one each step, SVI one every"
        f" {svi.BLOCK} steps, so that its costs may be too high by as much, and no run keeps more than {MOST_POINTS}."
        " Of the fastest it is the median over the seeds; of the others it is how many times the cost of the fastest"
        ' from the same start, the median and in brackets the range. "> 87" is of a contestant that had not come so'
        " near when it stopped, at 87 times the cost of the fastest."
    )
    each = (race_report.data_set(*key, group, _picture(*key), folder) for key, group in by_data_set(rows).items())
    return "\n\n".join([intro, *each])
