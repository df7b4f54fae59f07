"""Steps of training a variational autoencoder: ours, one written by hand in JAX, and Pyro's own loop."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from latentzoo.benchmarks import speed_report
from latentzoo.benchmarks.paired import Comparison, Side, compared
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit

SUITE = "steps of training an autoencoder against a hand-written JAX step and against Pyro's loop"
SIDES = "latentzoo.benchmarks.training_sides"
NUM_PAIRS = {True: 3, False: 9}  # quick or not
SIZE = {"size": 20_000}
VARIANT = "50 steps, 784-200-20, minibatches of 128 of {size:,} rows, float32, Adam"
OURS = Side(SIDES, "latentzoo", "lz.fit's SVI in NumPyro", options=SIZE)

COMPARISONS = (
    Comparison(
        "vae",
        VARIANT,
        OURS,
        Side(SIDES, "jax", "a step written by hand in JAX, under lax.scan", "JAX", options=SIZE),
        times=1.0 / 1.2,
    ),
    Comparison(
        "vae",
        VARIANT,
        OURS,
        Side(SIDES, "pyro", "Pyro's SVI with Trace_ELBO, step by step", "Pyro", options=SIZE),
        times=2.5,
    ),
)


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each comparison."""
    for one in COMPARISONS:
        yield Unit(one.name(context.quick), partial(_compared, one, context))


def _compared(one: Comparison, context: Context) -> Iterator[Row]:
    pairs = NUM_PAIRS[context.quick]
    return compared("training", one, quick=context.quick, seed=context.seed, num_pairs=pairs)


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the table of both comparisons."""
    return speed_report.section(rows)
