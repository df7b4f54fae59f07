"""The suite of speeds, on few rows: what it runs is real work, and what it asks is told."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from latentzoo.benchmarks import speed
from latentzoo.benchmarks.runner import Context


@pytest.mark.parametrize("side", list(speed.SIDES))
@pytest.mark.filterwarnings("ignore::latentzoo.models.language.errors.Note")
@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
def test_either_side_runs(side, monkeypatch):
    monkeypatch.setattr(speed, "NUM_ROWS", 2000)
    monkeypatch.setattr(speed, "NUM_BIGRAMS", 900)
    monkeypatch.setattr(speed, "NUM_WORDS", 80)
    steps = []
    measured = speed._seconds_per_iteration
    monkeypatch.setattr(speed, "_seconds_per_iteration", lambda run: measured(lambda n: (steps.append(n), run(n))))
    speed._measure(side, seed=0)
    assert steps == [speed.FEW, speed.FEW, speed.MANY]


def test_both_sides_of_the_bigrams_compute_the_same(monkeypatch):
    monkeypatch.setattr(speed, "NUM_BIGRAMS", 900)
    monkeypatch.setattr(speed, "NUM_WORDS", 80)
    ((ours,), (peers,)) = (speed.SIDES[side](np.random.default_rng(1), 0)(1) for side in ("bigrams", "scipy"))
    for one, other in zip(ours, peers, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_ratio_below_what_is_asked_does_not_hold(monkeypatch):
    times = iter([0.10, 0.90, 0.10, 0.95, 0.10, 5.0])  # ratios 9, 9.5 and 50
    monkeypatch.setattr(speed, "_in_fresh_process", lambda side, seed: next(times))
    unit, _ = speed.units(Context(Path(), True, 0, {}))
    rows = list(unit.work())
    assert rows[-1].value == pytest.approx(9.5)
    assert rows[-1].ok is False
    assert "9.5" in speed.section(rows, Path())


def test_a_process_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        speed._in_fresh_process("latentzoo", -1)
