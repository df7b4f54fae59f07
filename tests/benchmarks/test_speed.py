"""The suite of speeds, on few rows: what it runs is real work, all sides do the same, and what it asks is told."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentzoo.benchmarks import race_gaps, speed, speed_gap, speed_limits, speed_picture, speed_report, speed_sides
from latentzoo.benchmarks.fresh import MEMORY, POINT, SECONDS
from latentzoo.benchmarks.paired import MISSING, TIMES, Others, Side
from latentzoo.benchmarks.race import Course
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context

FEW = {"size": 400, "components": 3}
peers = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("count", [1, 5])
@peers
def test_scikit_learn_climbs_the_same_way(covariance: str, count: int) -> None:
    options = {"columns": 2, "covariance": covariance, **FEW}
    ours = speed_sides.latentzoo_mixture(0, executor="numpy", **options)(count)
    assert ours == pytest.approx(speed_sides.sklearn_mixture(0, **options)(count), abs=1e-12)


@pytest.mark.parametrize("executor", ["numba", "jax"])
def test_executors_climb_the_same_way(executor: Any) -> None:
    if executor == "numba":
        pytest.importorskip("numba")
    ours = speed_sides.latentzoo_mixture(0, columns=2, executor=executor, **FEW)(4)
    assert ours == pytest.approx(speed_sides.latentzoo_mixture(0, columns=2, executor="numpy", **FEW)(4), abs=1e-10)


@peers
def test_pomegranate_climbs_the_same_way() -> None:
    pytest.importorskip("pomegranate")
    ours = speed_sides.latentzoo_mixture(0, columns=2, executor="numpy", **FEW)(4)
    # It adds nothing to its variances.
    assert speed_sides.pomegranate_mixture(0, columns=2, **FEW)(4) == pytest.approx(ours, abs=1e-5)


@peers
def test_hmmlearn_begins_the_same_way() -> None:
    pytest.importorskip("hmmlearn")
    ours = speed_sides.latentzoo_mixture(0, columns=2, executor="numpy", **FEW)(1)
    assert speed_sides.hmmlearn_mixture(0, columns=2, **FEW)(1) == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("count", [1, 4])
@peers
def test_bayespy_climbs_the_same_bound(count: int) -> None:
    pytest.importorskip("bayespy")
    ours = speed_sides.latentzoo_earthquakes(0, executor="numpy", **FEW)(count)
    assert speed_sides.bayespy_earthquakes(0, **FEW)(count) == pytest.approx(ours, rel=1e-11)


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_both_sides_of_the_bigrams_compute_the_same(executor: Any) -> None:
    if executor == "numba":
        pytest.importorskip("numba")
    sides = speed_sides.latentzoo_bigrams(1, size=900, executor=executor), speed_sides.scipy_bigrams(1, size=900)
    for one, other in zip(*(side(1) for side in sides), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-300)


def test_every_side_is_one_that_runs() -> None:
    sides = [side for one in speed.COMPARISONS for quick in (True, False) for side in one.sides(quick)]
    for side in [*sides, speed.LIMITS]:
        assert side.module == speed_sides.__name__
        assert side.name in speed_sides.SIDES
    names = [one.name(False) for one in speed.COMPARISONS]
    assert len(set(names)) == len(names)


def test_the_limits_are_of_this_machine() -> None:
    found = speed_limits.limits(0, megabytes=2, order=32, rounds=2)
    assert all(value > 0.0 for value in found.values())
    assert speed_limits.EXPS.format(speed_limits.VECTOR, "float64") in found


# --- the suite --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Row]:
    """All rows of the suite, where ours take a fortieth of what others take, and BayesPy is not installed."""

    def run(side: Side, seed: int, max_seconds: float = 0.0) -> dict[str, float]:
        if side is speed.LIMITS:
            names = (speed_limits.POLYNOMIAL, speed_limits.VECTOR)
            return {speed_limits.EXPS.format(name, dtype): 2.0 for name in names for dtype in ("float64", "float32")}
        ours = side.library == "latentzoo"
        figures = {SECONDS: 0.01 if ours else 0.4, MEMORY: 1.0 if ours else 700.0}
        return {**figures, POINT: 0.8} if "components" in side.options else figures

    monkeypatch.setattr(Side, "run", run)
    monkeypatch.setattr(Side, "is_missing", property(lambda side: side.needs == "bayespy"))
    monkeypatch.setattr(Others, "_read", staticmethod(lambda: (0.0, 0.0, 0.0)))
    contest = speed_gap.Contest(0.01, race_gaps.Cost(2.0, 5.0), "svi-numpyro", 5.0)
    monkeypatch.setattr(speed_gap, "contest", lambda course, seed, quick: contest)
    found: list[Row] = []
    context = Context(tmp_path, False, 0, {}, rows=lambda: found)
    for unit in speed.units(context):
        found += unit.work()
    return found


def test_what_is_asked_is_told_with_what_holds(rows: list[Row], tmp_path: Path) -> None:
    asked = {row.reference: row.ok for row in rows if row.quantity == TIMES and row.reference is not None}
    assert asked == {35.0: True, 70.0: False, 15.0: True, 10.0: True, 4.0: True, 1.15: True, 1.4: True, 2.5: True} | {
        100.0: True
    }
    text = speed.section(rows, tmp_path)
    assert "| 40 | at least 35 | yes | 0.8 (at most 0.9: yes) | 1 (at most 16: yes) | 10 | 400 | 700 |" in text
    assert "| 40 | at least 70 | **NO** |" in text
    assert "bayespy is not installed" in text
    assert "| 200 |" in text  # the gap
    assert "![how many times as fast" in text


def test_the_share_of_the_limit_is_that_of_the_exponentials(rows: list[Row]) -> None:
    shares = [row for row in rows if row.quantity.startswith(speed_report.SHARE)]
    assert {row.value for row in shares} == {(1.0 / 0.8) / 2.0}
    assert {row.quantity.removeprefix(speed_report.SHARE).strip() for row in shares} == {
        speed_limits.POLYNOMIAL,
        speed_limits.VECTOR,
    }


def test_the_picture_has_a_bar_for_each_ratio_and_a_mark_for_each_ask(rows: list[Row]) -> None:
    (axes,) = speed_picture.draw(rows).axes
    ratios = [row for row in rows if row.quantity == TIMES]
    assert len(axes.patches) == len(ratios)
    marks = [line for line in axes.lines if line.get_color() == speed_picture.ACCENT and len(line.get_xdata())]
    assert len(marks) == sum(row.reference is not None for row in ratios)


def test_a_suite_of_which_nothing_is_installed_says_so(tmp_path: Path) -> None:
    row = Row("speed", MISSING, entry="a", variant="b", data="against c", note="c is not installed")
    assert "- a, b, against c: c is not installed" in speed.section([row], tmp_path)


# --- the gap ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tracks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float | None]]:
    """Let CAVI arrive after a second, and SVI after given ones; return how long each was let run."""

    def give(arrive: dict[tuple[str, float], float]) -> dict[str, float | None]:
        limits: dict[str, float | None] = {}

        def track(course: Any, run: Any, max_seconds: float | None) -> race_gaps.Track:
            limits[run.name] = max_seconds
            at = 1.0 if run.rate is None else arrive.get((run.contestant.library, run.rate), math.inf)
            end = min(at, max_seconds or math.inf)
            elbo = np.array([-100.0, 0.0 if at <= end else -50.0])
            return race_gaps.Track(np.arange(2.0), np.array([0.0, end]), np.arange(2.0), elbo)

        monkeypatch.setattr(speed_gap, "_track", track)
        monkeypatch.setattr(Course, "warm_up", lambda course, run: 0.0)
        return limits

    return give


def test_the_best_rate_of_either_library_is_what_counts(tracks: Callable[..., dict[str, float | None]]) -> None:
    limits = tracks({("numpyro", 0.03): 110.0, ("numpyro", 0.1): 150.0, ("pyro", 0.03): 90.0})
    found = speed_gap.contest(Course(None), 0, quick=True)  # type: ignore[arg-type]
    assert found.times == pytest.approx(90.0)
    assert found.name == "svi-pyro, learning_rate=0.03, seed=0"
    assert limits["svi-numpyro, learning_rate=0.01, seed=0"] == 120.0  # times CAVI's second
    assert limits["svi-numpyro, learning_rate=0.1, seed=0"] == 110.0  # nobody needs longer to lose


def test_where_no_rate_arrives_it_is_a_lower_bound(
    tracks: Callable[..., dict[str, float | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracks({})
    monkeypatch.setattr(speed_gap, "simulated", lambda *arguments: None)
    found = [row for row in speed_gap.rows(Context(tmp_path, False, 0, {})) if row.quantity == TIMES]
    assert found[0].value == pytest.approx(120.0)
    assert found[0].ok is True
    assert "a lower bound: no rate arrives" in found[0].note
