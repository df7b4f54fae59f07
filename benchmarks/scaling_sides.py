"""The curves of the suite of scaling, each of which runs in a process of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from latentzoo.benchmarks.fresh import MEMORY, SECONDS, WARM_UP, Run, answer, measured
from latentzoo.benchmarks.speed_sides import latentzoo_bigrams, latentzoo_mixture


def curve(
    make: Callable[..., Run],
    seed: int,
    *,
    along: str,
    values: Sequence[int],
    repeats: int,
    budget: float,
    **options: Any,
) -> dict[str, float]:
    """Return the figures at each value of an option: the fewest seconds of the repeats, the most memory.

    The values go round. Whatever else a machine does adds to the seconds, for some of the repeats.
    """
    make(seed, **{**options, "size": WARM_UP})(1)  # a process that has never run is slower for a while
    found: dict[int, list[dict[str, float]]] = {value: [] for value in values}
    for _ in range(repeats):
        for value in values:
            found[value].append(measured(make, seed, budget=budget, **{**options, along: value}))
    return {
        f"{name} at {value}": worth(each[name] for each in figures)
        for value, figures in found.items()
        for name, worth in ((SECONDS, min), (MEMORY, max))
        if name in figures[0]
    }


SIDES: dict[str, Callable[..., Any]] = {
    "mixture": partial(curve, latentzoo_mixture),
    "bigrams": partial(curve, latentzoo_bigrams),
}

if __name__ == "__main__":
    answer(SIDES)
