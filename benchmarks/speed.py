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
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from latentzoo.benchmarks.report import mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.models.language.errors import Note, UserError

SUITE = "seconds an iteration against scikit-learn, in fresh processes"
NUM_ROWS, NUM_COMPONENTS = 1_000_000, 16
NUM_PAIRS = {True: 3, False: 9}  # quick or not
LEAST_RATIO = 10.0
FEW, MANY = 2, 12  # iterations: their difference leaves out what is done once


def units(context: Context) -> Iterator[Unit]:
    """Yield the one comparison there is."""
    yield Unit("earthquakes against scikit-learn's GaussianMixture", partial(_against_sklearn, context))


def _against_sklearn(context: Context) -> Iterator[Row]:
    """Yield both times and the median of their paired ratios, the processes A B A B."""
    if find_spec("sklearn") is None:
        raise UserError("scikit-learn is not installed: pip install 'latentzoo[bench]'")
    variant = f"N = {NUM_ROWS:,}, K = {NUM_COMPONENTS}, D = 2, float64"
    row = partial(Row, "speed", entry="earthquakes", variant=variant)
    ours, peers = [], []
    for _ in range(NUM_PAIRS[context.quick]):
        ours.append(_in_fresh_process("latentzoo", context.seed))
        peers.append(_in_fresh_process("sklearn", context.seed))
    ratios = sorted(peer / own for own, peer in zip(ours, peers, strict=True))
    ratio = statistics.median(ratios)
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    yield row("CAVI, E and M step with the bound", value=1e3 * statistics.median(ours), unit="ms", note=load)
    yield row("GaussianMixture, diag, on the same locations", value=1e3 * statistics.median(peers), unit="ms")
    note = f"median of {len(ratios)} pairs, from {ratios[0]:.1f} to {ratios[-1]:.1f}; the reference is what is asked"
    yield row("times as fast", value=ratio, reference=LEAST_RATIO, ok=ratio >= LEAST_RATIO, note=note)


def _in_fresh_process(side: str, seed: int) -> float:
    command = [sys.executable, "-m", "latentzoo.benchmarks.speed", side, str(seed)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the table of times."""
    lines = [
        [row.quantity, f"{number(row.value)} {row.unit}".strip(), number(row.reference), mark(row.ok), row.note]
        for row in rows
    ]
    variant = rows[0].variant if rows else ""
    intro = f"Earthquakes, {variant}. Seconds an iteration are those of {MANY} iterations less those of {FEW}."
    return f"{intro}\n\n{table(['what', 'value', 'reference', 'holds', 'note'], lines)}\n"


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
    rng = np.random.default_rng(seed)
    centres = 5.0 * rng.normal(size=(NUM_COMPONENTS, 2))
    location = centres[rng.integers(NUM_COMPONENTS, size=NUM_ROWS)] + rng.normal(size=(NUM_ROWS, 2))
    if side == "sklearn":
        from sklearn.mixture import GaussianMixture

        peer = partial(GaussianMixture, NUM_COMPONENTS, covariance_type="diag", init_params="random_from_data", tol=0.0)
        return _seconds_per_iteration(lambda steps: peer(max_iter=steps, random_state=seed).fit(location))
    from latentzoo.inference.fit import fit
    from latentzoo.inference.registry import get

    zoo = get("earthquakes", num_components=NUM_COMPONENTS)
    data = zoo.Data(location, rng.poisson(20.0, size=NUM_ROWS).astype(np.float64))
    prior = zoo.prior(data, noise_variance=1.0)
    init = zoo.init(data, prior, seed)
    run = partial(fit, zoo, data, prior=prior, init=init, tol=0.0, progress=False)
    return _seconds_per_iteration(lambda steps: run(num_steps=steps))


if __name__ == "__main__":
    warnings.simplefilter("ignore", Note)
    warnings.filterwarnings("ignore", module="sklearn")
    sys.stdout.write(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
