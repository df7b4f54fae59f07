"""The samplers with explicit noise: their distributions, the same draws in every library, and what a draw costs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks.report import link, mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference import samplers
from latentzoo.inference.pictures import samplers as picture
from latentzoo.models.language.files import atomic_path

SUITE = "samplers with explicit noise: goodness of fit, the three libraries at the same noise, time, a picture"
NUM_DRAWS = {True: 200_000, False: 2_000_000}  # quick or not
LEVEL = 0.01  # of all tests of fit together
TOLERANCE = 1e-10  # between libraries, of the largest draw
LOGITS = np.log([0.5, 0.3, 0.2])
LIBRARIES = ("NumPy", "torch", "JAX")
FIT, APART, TIME = "p-value of fit", "difference from NumPy at the same noise", "time of a draw"  # quantities
PICTURE = "all of them"


class Sampler(NamedTuple):
    """A sampler at some parameters. fits: its p-value for draws, by SciPy. size: of the noise of a draw."""

    name: str
    draw: Callable[[Any], Any]
    fits: Callable[[np.ndarray], float]
    size: tuple[int, ...] = ()


def contestants() -> list[Sampler]:
    """Return the samplers, each with its test of fit: Kolmogorov and Smirnov's, or chi-square for categories."""
    from scipy import stats

    def continuous(distribution: Any) -> Callable[[np.ndarray], float]:
        return lambda draws: float(stats.kstest(draws, distribution.cdf).pvalue)

    def categories(vectors: np.ndarray) -> float:
        counts = np.bincount(vectors.argmax(-1), minlength=len(LOGITS))
        return float(stats.chisquare(counts, np.exp(LOGITS) * counts.sum()).pvalue)

    def power(draws: np.ndarray) -> float:
        return float(stats.kstest(draws**2, stats.beta(1.0, 5.0).cdf).pvalue)

    size = LOGITS.shape
    return [
        Sampler("exponential", lambda u: samplers.exponential(u, 1.5), continuous(stats.expon(scale=1.0 / 1.5))),
        Sampler("gumbel", samplers.gumbel, continuous(stats.gumbel_r)),
        Sampler("kumaraswamy", lambda u: samplers.kumaraswamy(u, 2.0, 5.0), power),
        Sampler(
            "truncated normal, the middle",
            lambda u: samplers.truncated_normal(u, 0.0, 1.0, -0.5, 2.0),
            continuous(stats.truncnorm(-0.5, 2.0)),
        ),
        Sampler(
            "truncated normal, a tail",
            lambda u: samplers.truncated_normal(u, 0.0, 1.0, 6.0, np.inf),
            continuous(stats.truncnorm(6.0, np.inf)),
        ),
        Sampler("gumbel-softmax", lambda u: samplers.gumbel_softmax(u, LOGITS, 0.5), categories, size),
        Sampler("straight-through", lambda u: samplers.straight_through(u, LOGITS, 0.5), categories, size),
    ]


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each sampler, and one for the picture."""
    found = contestants()
    for sampler in found:
        yield Unit(sampler.name, partial(_measured, sampler, context, LEVEL / len(found)))
    yield Unit("picture", partial(_drawn, context))


def _measured(sampler: Sampler, context: Context, level: float) -> Iterator[Row]:
    noise = np.random.default_rng(context.seed).random((NUM_DRAWS[context.quick], *sampler.size))
    row = partial(Row, "samplers", entry=sampler.name)
    reference = sampler.draw(noise)
    value = sampler.fits(reference)
    note = "draws are of the distribution unless it is below this level, which all samplers share"
    yield row(FIT, library="NumPy", value=value, tolerance=level, ok=value >= level, note=note)
    for library, draws, seconds in _in_each(sampler, noise):
        worst = float(np.abs(draws - reference).max() / np.abs(reference).max())
        if library != "NumPy":
            yield row(APART, library=library, error=worst, tolerance=TOLERANCE, ok=worst <= TOLERANCE)
        yield row(TIME, library=library, value=1e9 * seconds / len(noise), unit="ns")


def _in_each(sampler: Sampler, noise: np.ndarray) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the draws of each library and the seconds of the second call: JAX compiles in the first."""
    import jax
    import torch

    tensor = torch.from_numpy(noise)
    with jax.enable_x64(True):
        compiled, array = jax.jit(sampler.draw), jax.numpy.asarray(noise)
        calls: dict[str, Callable[[], Any]] = {
            "NumPy": lambda: sampler.draw(noise),
            "torch": lambda: sampler.draw(tensor).numpy(),
            "JAX": lambda: np.asarray(compiled(array)),
        }
        for library, call in calls.items():
            call()
            start = perf_counter()
            draws = call()
            yield library, draws, perf_counter() - start


def _drawn(context: Context) -> Iterator[Row]:
    path = context.folder / "samplers" / "samplers.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as target:
        picture.figure(context.seed).savefig(target, format="png")
    yield Row("samplers", "files", value=1, entry=PICTURE, note=path.name)


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return a line for each sampler, and the picture."""
    lines = [
        _line(name, [row for row in rows if row.entry == name])
        for name in dict.fromkeys(row.entry for row in rows if row.entry != PICTURE)
    ]
    head = ("sampler", "p-value of fit", "libraries differ by", *(f"{library}, ns a draw" for library in LIBRARIES), "")
    page = table(head, lines)
    drawn = Path("samplers") / "samplers.png"
    return f"{page}\n\n!{link('the samplers', drawn)}" if (folder / drawn).exists() else page


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    fit = next((row.value for row in rows if row.quantity == FIT), None)
    apart = max((row.error for row in rows if row.quantity == APART and row.error is not None), default=None)
    times = {row.library: row.value for row in rows if row.quantity == TIME}
    cells = [number(fit), number(apart), *(number(times.get(library)) for library in LIBRARIES)]
    return [name, *cells, mark(all(row.ok is not False for row in rows))]
