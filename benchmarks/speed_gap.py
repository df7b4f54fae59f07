"""How much sooner CAVI is within a gap of the best bound than SVI at the best of its learning rates, in either library.

The course, its start and the bound off the clock are those of the race. SVI gets a minute, or 120 times CAVI's time if
that is more; but once a rate has arrived, none needs longer than that to lose.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from latentzoo.benchmarks.data_sets import Source, simulated
from latentzoo.benchmarks.paired import TIMES
from latentzoo.benchmarks.race import LEARNING_RATES, Contestant, Course, Run, track
from latentzoo.benchmarks.race_gaps import TARGETS, Cost, Track
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context
from latentzoo.inference import svi
from latentzoo.models.language.errors import UserError

ENTRY = "earthquakes"
NUM_ROWS = {True: 5_000, False: 50_000}  # quick or not
NUM_SEEDS = {True: 1, False: 3}
MIN_SECONDS, MAX_TIMES = {True: 3.0, False: 60.0}, 120.0
TARGET = TARGETS[-1]
ASKED = 100.0  # times as fast
NUM_STEPS = 10**6  # more than any run has time for
REPEATS = 5  # of CAVI, which takes milliseconds: the median counts
VARIANT = "time to a remaining gap of {:g}, N = {:,}, K = 3"
WHAT = f"seconds to gap {TARGET:g}"


class Contest(NamedTuple):
    """What came of a seed: CAVI's cost, and the least of SVI's with its name, a lower bound where none arrives."""

    cavi: float
    svi: Cost
    name: str
    cap: float

    @property
    def times(self) -> float:
        """How many times as long SVI took, or was given."""
        return min(self.svi.needed, self.svi.spent) / self.cavi


def rows(context: Context) -> Iterator[Row]:
    """Yield what both cost, medians over seeds, and how many times as fast CAVI is."""
    num_rows, seeds = NUM_ROWS[context.quick], range(context.seed, context.seed + NUM_SEEDS[context.quick])
    course = Course(Source(ENTRY, "simulated", partial(simulated, ENTRY, context.seed, num_rows, 0)))
    found = sorted((contest(course, seed, context.quick) for seed in seeds), key=lambda one: one.times)
    middle = found[len(found) // 2]
    arrived = math.isfinite(middle.svi.needed)
    row = partial(Row, "speed", entry=ENTRY, variant=VARIANT.format(TARGET, num_rows), data="against the best of SVI")
    yield row(WHAT, library="latentzoo", value=middle.cavi, note="CAVI")
    who = middle.name if arrived else f"{middle.name}: not there when it was stopped"
    yield row(WHAT, library="SVI", value=min(middle.svi), note=who)
    seeds_run = f"{len(found)} seed{'' if len(found) == 1 else 's'}"
    rates = ", ".join(f"{rate:g}" for rate in LEARNING_RATES[context.quick])
    note = f"median of {seeds_run}, from {found[0].times:.3g} to {found[-1].times:.3g}"
    note += f"; SVI in both libraries at each learning rate of {rates}"
    note += "" if arrived else "; a lower bound: no rate arrives"
    note += "; nothing is claimed at this size" if context.quick else ""
    ok = None if context.quick else middle.times >= ASKED
    short = max(ASKED - middle.times, 0.0)
    yield row(TIMES, library="SVI", value=middle.times, reference=ASKED, error=short, ok=ok, note=note)


def contest(course: Course, seed: int, quick: bool) -> Contest:
    """Run CAVI, then SVI at each rate in each library, from the same start."""
    cavi = Run(Contestant("cavi"), None, seed)
    course.warm_up(cavi)
    own = [_track(course, cavi, None) for _ in range(REPEATS)]
    best = float(own[0].elbo.max())
    needed = sorted(one.descent(best).cost("seconds", TARGET).needed for one in own)[REPEATS // 2]
    cap = max(MIN_SECONDS[quick], MAX_TIMES * needed)
    nearest = Cost(math.inf, cap), ""
    for library in svi.LIBRARIES:
        for rate in LEARNING_RATES[quick]:
            run = Run(Contestant("svi", library), rate, seed)
            course.warm_up(run)
            made = _track(course, run, min(cap, nearest[0].needed))
            cost = made.descent(max(best, float(made.elbo.max()))).cost("seconds", TARGET)
            if cost.needed < nearest[0].needed:
                nearest = cost, run.name
    return Contest(needed, *nearest, cap) if nearest[1] else Contest(needed, nearest[0], "SVI at any rate", cap)


def _track(course: Course, run: Run, max_seconds: float | None) -> Track:
    """Return the way of a run, which time alone ends before it converges; that of one that left float64 never began."""
    begin = course.elbo(run, course.start(run))
    try:
        return track(course, run, course.fit(run, max_seconds=max_seconds, num_steps=NUM_STEPS), begin)
    except UserError:
        return Track.at(begin)
