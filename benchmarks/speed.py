"""Closed-form updates against peers: seconds an iteration, each measured in fresh processes, in turn."""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks.report import mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.models.language.errors import Note

SUITE = "seconds an iteration against other libraries, in fresh processes"
NUM_ROWS, NUM_COMPONENTS = 1_000_000, 16
NUM_BIGRAMS, NUM_WORDS, NUM_CLASSES = 1_000_000, 20_000, 32
NUM_PAIRS = {True: 3, False: 9}  # quick or not
FEW, MANY = 2, 12  # iterations: their difference leaves out what is done once


class Comparison(NamedTuple):
    """What is compared: who runs what in a fresh process, and how many times as fast ours must be."""

    entry: str
    variant: str
    ours: str
    peer: str
    what: str
    against: str
    least: float


COMPARISONS = (
    Comparison(
        "earthquakes",
        f"N = {NUM_ROWS:,}, K = {NUM_COMPONENTS}, D = 2, float64",
        "latentzoo",
        "sklearn",
        "CAVI, E and M step with the bound",
        "scikit-learn's GaussianMixture, diag, on the same locations",
        10.0,
    ),
    Comparison(
        "aggregate_markov",
        f"{NUM_BIGRAMS:,} distinct bigrams, V = {NUM_WORDS:,}, m = {NUM_CLASSES}, float64",
        "bigrams",
        "scipy",
        "E step: responsibilities summed over rows into both tables",
        "NumPy's (P[rows] * Q[cols]).sum(1) in chunks, then SciPy's csr_array @ dense for both tables",
        1.0,
    ),
)


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each comparison."""
    for one in COMPARISONS:
        yield Unit(f"{one.entry} against {one.peer}", partial(_compared, one, context))


def _compared(one: Comparison, context: Context) -> Iterator[Row]:
    """Yield both times and the median of their paired ratios, the processes A B A B."""
    row = partial(Row, "speed", entry=one.entry, variant=one.variant)
    ours, peers = [], []
    for _ in range(NUM_PAIRS[context.quick]):
        ours.append(_in_fresh_process(one.ours, context.seed))
        peers.append(_in_fresh_process(one.peer, context.seed))
    ratios = sorted(peer / own for own, peer in zip(ours, peers, strict=True))
    ratio = statistics.median(ratios)
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    yield row(one.what, value=1e3 * statistics.median(ours), unit="ms", note=load)
    yield row(one.against, value=1e3 * statistics.median(peers), unit="ms")
    note = f"median of {len(ratios)} pairs, from {ratios[0]:.1f} to {ratios[-1]:.1f}; the reference is what is asked"
    yield row("times as fast", value=ratio, reference=one.least, ok=ratio >= one.least, note=note)


def _in_fresh_process(side: str, seed: int) -> float:
    command = [sys.executable, "-m", "latentzoo.benchmarks.speed", side, str(seed)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return a table of times for each comparison."""
    intro = f"Seconds an iteration are those of {MANY} iterations less those of {FEW}."
    return "\n\n".join([intro, *(_table([row for row in rows if row.entry == one.entry], one) for one in COMPARISONS)])


def _table(rows: Sequence[Row], one: Comparison) -> str:
    lines = [
        [row.quantity, f"{number(row.value)} {row.unit}".strip(), number(row.reference), mark(row.ok), row.note]
        for row in rows
    ]
    return f"{one.entry}, {one.variant}.\n\n{table(['what', 'value', 'reference', 'holds', 'note'], lines)}"


# --- what runs in the fresh processes -------------------------------------------------------------------------------


def _seconds_per_iteration(run: Callable[[int], object]) -> float:
    """Return the seconds of an iteration, after one run that warms up."""
    run(FEW)
    seconds = []
    for num_steps in (FEW, MANY):
        start = time.perf_counter()
        run(num_steps)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (MANY - FEW)


def _measure(side: str, seed: int) -> float:
    return _seconds_per_iteration(SIDES[side](np.random.default_rng(seed), seed))


def _events(rng: np.random.Generator) -> np.ndarray:
    centres = 5.0 * rng.normal(size=(NUM_COMPONENTS, 2))
    return centres[rng.integers(NUM_COMPONENTS, size=NUM_ROWS)] + rng.normal(size=(NUM_ROWS, 2))


def _earthquakes(rng: np.random.Generator, seed: int) -> Callable[[int], object]:
    from latentzoo.inference.fit import fit
    from latentzoo.inference.registry import get

    location = _events(rng)
    zoo = get("earthquakes", num_components=NUM_COMPONENTS)
    data = zoo.Data(location, rng.poisson(20.0, size=NUM_ROWS).astype(np.float64))
    prior = zoo.prior(data, noise_variance=1.0)
    init = zoo.init(data, prior, seed)
    return lambda steps: fit(zoo, data, prior=prior, init=init, tol=0.0, progress=False, num_steps=steps)


def _sklearn(rng: np.random.Generator, seed: int) -> Callable[[int], object]:
    from sklearn.mixture import GaussianMixture

    location = _events(rng)
    peer = partial(GaussianMixture, NUM_COMPONENTS, covariance_type="diag", init_params="random_from_data", tol=0.0)
    return lambda steps: peer(max_iter=steps, random_state=seed).fit(location)


class _Text(NamedTuple):
    """Distinct bigrams, sorted as a reader gives them, and both tables: as common as words in a text (Zipf's law)."""

    context: np.ndarray
    word: np.ndarray
    times: np.ndarray
    class_probs: np.ndarray
    word_probs: np.ndarray


def _text(rng: np.random.Generator) -> _Text:
    common = 1.0 / np.arange(1.0, NUM_WORDS + 1.0)
    code = np.empty(0, dtype=np.int64)
    while len(code) < NUM_BIGRAMS:
        drawn = rng.choice(NUM_WORDS, size=(2, NUM_BIGRAMS), p=common / common.sum())
        code = np.union1d(code, drawn[0] * NUM_WORDS + drawn[1])
    code = np.sort(rng.permutation(code)[:NUM_BIGRAMS])
    times = rng.integers(1, 20, size=NUM_BIGRAMS).astype(np.float64)
    tables = rng.dirichlet(np.ones(NUM_CLASSES), NUM_WORDS), rng.dirichlet(np.ones(NUM_WORDS), NUM_CLASSES).T.copy()
    return _Text(code // NUM_WORDS, code % NUM_WORDS, times, *tables)


def _bigrams(rng: np.random.Generator, seed: int) -> Callable[[int], object]:
    from latentzoo.inference.kernels.bigram import bigram_sums

    text = _text(rng)
    logs = np.log(text.class_probs), np.log(text.word_probs)
    return lambda steps: [bigram_sums(text.context, text.word, text.times, *logs) for _ in range(steps)]


def _scipy(rng: np.random.Generator, seed: int) -> Callable[[int], object]:
    text = _text(rng)
    starts = np.searchsorted(text.context, np.arange(NUM_WORDS + 1))
    return lambda steps: [_plain_sums(text, starts) for _ in range(steps)]


def _plain_sums(text: _Text, starts: np.ndarray, chunk: int = 2**14) -> tuple[float, Any, Any]:
    """Return the log likelihood and the expected counts, as one would write it with NumPy and SciPy."""
    from scipy.sparse import csr_array

    left, right = text.class_probs, text.word_probs
    total = np.empty(len(text.times))
    for start in range(0, len(total), chunk):
        rows = slice(start, start + chunk)
        total[rows] = (left[text.context[rows]] * right[text.word[rows]]).sum(1)
    shape = (len(left), len(right))
    weight = csr_array((text.times / total, text.word, starts), shape=shape)
    return float(text.times @ np.log(total)), left * (weight @ right), right * (weight.T @ left)


SIDES: dict[str, Callable[[np.random.Generator, int], Callable[[int], object]]] = {
    "latentzoo": _earthquakes,
    "sklearn": _sklearn,
    "bigrams": _bigrams,
    "scipy": _scipy,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore", Note)
    warnings.filterwarnings("ignore", module="sklearn")
    sys.stdout.write(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
