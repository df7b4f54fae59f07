"""What races are judged by: how much of the way to the best bound is left, and what it cost to come so near.

Contestants are compared seed by seed, since those of one seed start at the same place. Where a run never comes near
enough, no number is made up: what it spent is a lower bound of what it would need.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from latentzoo.benchmarks.results import Curve, Row

MOST_POINTS = 60
TARGETS = (0.1, 0.01, 0.001)  # gaps whose cost is told; the last one counts as arrival
COSTS = {"seconds": "s", "gradients": "passes"}
GAP, GAP_AT, COST = "remaining gap", "remaining gap at learning rate", "{} to gap {:g}"
FASTEST, NOBODY = "the fastest", "none comes so near"


class Track(NamedTuple):
    """The way of a run, from the start at step 0: the exact bound at each point, and what was spent until there."""

    step: np.ndarray
    seconds: np.ndarray
    gradients: np.ndarray
    elbo: np.ndarray

    @classmethod
    def of(cls, curve: Curve) -> "Track":
        """Return the track that a row holds; what is not finite is NaN."""
        return cls(*(np.array(curve[name], dtype=np.float64) for name in cls._fields))

    @classmethod
    def at(cls, start: float) -> "Track":
        """Return the track of a run that never left its start."""
        return cls(*(np.array([value]) for value in (0.0, 0.0, 0.0, start)))

    @property
    def curve(self) -> dict[str, list[float | None]]:
        """The track as a row holds it."""
        return {name: np.asarray(values).tolist() for name, values in self._asdict().items()}

    def descent(self, best: float) -> "Descent":
        """Return the part of the way from the start to the best bound that is left; 0 where there is no way.

        Where the bound is not finite nothing was gained, however much was spent: the gap is infinite.
        """
        way = best - self.elbo[0]
        left = (best - self.elbo) / way if way > 0.0 else 0.0 * self.elbo
        return Descent(self.seconds, self.gradients, np.where(np.isfinite(left), left, np.inf))


def thinned(size: int, most: int = MOST_POINTS) -> np.ndarray:
    """Return which of so many points to keep: the first, the last, and others evenly on a logarithmic scale."""
    if size <= most:
        return np.arange(size)
    spaced = np.rint(np.geomspace(1.0, size - 1.0, most - 1)).astype(int)
    return np.unique([0, *spaced])


class Cost(NamedTuple):
    """What a run needed to come within a gap, infinite where it never did, and all that it spent."""

    needed: float
    spent: float


class Descent(NamedTuple):
    """A run that is measured by what is left of its way."""

    seconds: np.ndarray
    gradients: np.ndarray
    gap: np.ndarray

    def spent(self, by: str) -> np.ndarray:
        """Return what was spent until each point: "seconds" or "gradients"."""
        return {"seconds": self.seconds, "gradients": self.gradients}[by]

    def cost(self, by: str, target: float) -> Cost:
        """Return the cost of the first recorded point within the target: between two points nothing is known."""
        spent, within = self.spent(by), np.flatnonzero(self.gap <= target)
        return Cost(float(spent[within[0]]) if len(within) else math.inf, float(spent[-1]))


Costs = Mapping[int, Cost]  # by seed


def median_needed(costs: Costs) -> float:
    """Return the median over seeds: infinite where the median seed never came so near."""
    return float(np.median([each.needed for each in costs.values()]))


def ratio(mine: Costs, fastest: Costs) -> str:
    """Return how many times the cost of the fastest, in words: by seed, the median and the range.

    Where the median seed never comes so near it is a lower bound: a run that stopped needs more than it spent.
    """
    pairs = [(mine[seed], base.needed) for seed, base in fastest.items() if seed in mine]
    pairs = [(each, base) for each, base in pairs if 0.0 < base < math.inf]
    if not pairs:
        return ""
    times = [each.needed / base for each, base in pairs]
    if math.isfinite(middle := float(np.median(times))):
        return f"x {_digits(middle)} ({_digits(min(times))} to {_digits(max(times))})"
    least = float(np.median([min(each.needed, each.spent) / base for each, base in pairs]))
    arrived = sum(map(math.isfinite, times))
    some = f" ({arrived} of {len(times)} seeds arrive)" if arrived else ""
    return (f"> {_digits(_rounded_down(least))}" if least > 0.0 else "never") + some


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _rounded_down(value: float) -> float:
    """Return the value to two digits, no larger than it is: a lower bound stays one."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit


# --- contestants ------------------------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """A contestant after its runs.

    runs: by learning rate, None of a method that has none, and by seed. rate: the best one. compiling: seconds.
    """

    name: str
    library: str
    runs: Mapping[float | None, Mapping[int, Descent]]
    rate: float | None
    compiling: float

    @classmethod
    def of(
        cls, name: str, library: str, runs: Mapping[float | None, Mapping[int, Descent]], compiling: float
    ) -> "Standing":
        """Choose the learning rate that arrives in the least time, else the one that comes nearest: by medians."""

        def rank(rate: float | None) -> tuple[float, float]:
            costs = {seed: run.cost("seconds", TARGETS[-1]) for seed, run in runs[rate].items()}
            return median_needed(costs), _median_left(runs[rate])

        return cls(name, library, runs, min(runs, key=rank), compiling)

    @property
    def best(self) -> Mapping[int, Descent]:
        """The runs at the best learning rate, by seed."""
        return self.runs[self.rate]

    def costs(self, by: str, target: float) -> Costs:
        """Return what a gap cost at the best learning rate."""
        return {seed: run.cost(by, target) for seed, run in self.best.items()}

    def words(self) -> str:
        """Return the spread of the remaining gap over the seeds, and how many of them arrived."""
        ends = [run.gap[-1] for run in self.best.values()]
        arrived = sum(math.isfinite(each.needed) for each in self.costs("seconds", TARGETS[-1]).values())
        rate = "" if self.rate is None else f"learning rate {self.rate:g}; "
        return f"{rate}{min(ends):.1e} to {max(ends):.1e}; {arrived} of {len(ends)} seeds came within {TARGETS[-1]:g}"


def _median_left(runs: Mapping[int, Descent]) -> float:
    return float(np.median([run.gap[-1] for run in runs.values()]))


def compared(standings: Sequence[Standing], row: "partial[Row]") -> Iterator[Row]:
    """Yield for each contestant the gap that is left, at its best learning rate and at each, and what each gap cost."""
    for one in standings:
        mine = partial(row, variant=one.name, library=one.library)
        left = _finite(_median_left(one.best))
        yield mine(GAP, value=left, note=one.words(), compile_seconds=one.compiling)
        for rate, runs in one.runs.items():
            if rate is not None:
                yield mine(f"{GAP_AT} {rate:g}", value=_finite(_median_left(runs)))
    for by, unit in COSTS.items():
        for target in TARGETS:
            yield from _compared(standings, by, target, partial(row, COST.format(by, target), unit=unit))


def _compared(standings: Sequence[Standing], by: str, target: float, row: "partial[Row]") -> Iterator[Row]:
    """Yield what a gap cost each contestant, beside the fastest."""
    costs = [one.costs(by, target) for one in standings]
    fastest = min(costs, key=median_needed)
    least = median_needed(fastest)
    for one, mine in zip(standings, costs, strict=True):
        note = FASTEST if mine is fastest else ratio(mine, fastest)
        yield row(
            variant=one.name,
            library=one.library,
            value=_finite(median_needed(mine)),
            reference=_finite(least),
            note=note if math.isfinite(least) else NOBODY,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
