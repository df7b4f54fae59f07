"""The suite of scaling: exponents of known data are recovered, real work is measured, and the report tells of both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentzoo.benchmarks import scaling, scaling_picture, scaling_sides
from latentzoo.benchmarks.fresh import MEMORY, SECONDS
from latentzoo.benchmarks.paired import MISSING, Others, Side
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power: float) -> None:
    values = np.array([10, 100, 1000, 10_000])
    slope, half = scaling.exponent(values, 3e-9 * values**power)
    assert slope == pytest.approx(power, abs=1e-12)
    assert half < 1e-6


def test_the_interval_holds_the_exponent_as_often_as_it_says() -> None:
    rng, values = np.random.default_rng(0), np.geomspace(1e5, 1e7, 5)
    fits = [scaling.exponent(values, values * np.exp(0.1 * rng.normal(size=5))) for _ in range(1000)]
    share = np.mean([abs(slope - 1.0) <= half for slope, half in fits])
    assert abs(share - scaling.LEVEL) < 4.0 * np.sqrt(0.95 * 0.05 / 1000)


def test_two_points_have_no_interval() -> None:
    assert scaling.exponent([1, 2], [1.0, 2.0]) == (pytest.approx(1.0), np.inf)


def test_a_line_tells_what_is_done_once_from_what_grows() -> None:
    values = np.array([8, 16, 24, 32, 64])
    assert scaling.line(values, 3e-3 + 5e-4 * values) == pytest.approx((3e-3, 5e-4, 0.0), abs=1e-12)
    bent = scaling.line(values, 1e-6 * values**2.0)
    assert bent[2] > 0.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixture", {"along": "components", "size": 200, "columns": 2, "executor": "numpy"}),
        ("bigrams", {"along": "size", "executor": "numpy"}),
    ],
)
def test_a_curve_has_figures_at_each_value(name: str, options: dict[str, Any]) -> None:
    found = scaling_sides.SIDES[name](0, values=[20, 40], repeats=2, budget=0.001, **options | _missing(name))
    assert {f"{SECONDS} at 20", f"{SECONDS} at 40"} <= set(found)


def _missing(name: str) -> dict[str, Any]:
    return {"components": 3} if name == "mixture" else {}


def test_every_curve_is_one_that_runs(tmp_path: Path) -> None:
    assert {one.side.name for one in scaling.CURVES} == set(scaling_sides.SIDES)
    names = [unit.name for unit in scaling.units(Context(tmp_path, True, 0, {}))]
    assert len(set(names)) == len(names)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Row]]:
    """Run the suite where seconds follow a power law and memory grows by so much in all."""

    def run_all(power: float = 1.0, growth: float = 0.5, cores: float = 0.0, quick: bool = False) -> list[Row]:
        def run(side: Side, seed: int, max_seconds: float = 0.0) -> dict[str, float]:
            values = side.options["values"]
            seconds = {f"{SECONDS} at {value}": 1e-8 * value**power for value in values}
            peaks = np.linspace(1.0, 1.0 + growth, len(values))
            return seconds | {f"{MEMORY} at {value}": peak for value, peak in zip(values, peaks, strict=True)}

        reads = iter(np.tile([[0.0, 0.0, 0.0], [1.0, cores, 0.0]], (len(scaling.CURVES), 1)).tolist())
        monkeypatch.setattr(Side, "run", run)
        monkeypatch.setattr(Side, "is_missing", property(lambda side: False))
        monkeypatch.setattr(Others, "_read", staticmethod(lambda: next(reads)))
        found: list[Row] = []
        context = Context(tmp_path, quick, 0, {}, rows=lambda: found)
        for unit in scaling.units(context):
            found += unit.work()
        return found

    return run_all


def _verdicts(rows: list[Row], quantity: str) -> set[bool | None]:
    return {row.ok for row in rows if row.quantity == quantity and row.reference is not None}


def test_a_linear_cost_and_flat_memory_hold(bench: Callable[..., list[Row]], tmp_path: Path) -> None:
    rows = bench()
    assert _verdicts(rows, scaling.EXPONENT) == {True}
    assert _verdicts(rows, scaling.GROWTH) == {True}
    text = scaling.section(rows, tmp_path)
    assert (
        "| gaussian_mixture, numba, by N | 1 | 1 | yes | 1.000 ± 0.000, 95%, from N = 100,000 to 10,000,000; " in text
    )
    assert " + 10.00 ns x N is off by 0% at most |" in text
    assert "![cost against size]" in text


def test_what_is_not_linear_or_not_flat_fails(bench: Callable[..., list[Row]]) -> None:
    rows = bench(power=1.2, growth=40.0)
    assert _verdicts(rows, scaling.EXPONENT) == {False}
    assert _verdicts(rows, scaling.GROWTH) == {False}


@pytest.mark.parametrize("options", [{"cores": 0.5}, {"quick": True}])
def test_a_busy_machine_and_a_quick_bench_claim_no_exponent(
    bench: Callable[..., list[Row]], options: dict[str, Any]
) -> None:
    rows = bench(**options)
    assert _verdicts(rows, scaling.EXPONENT) == {None}
    busy = [row for row in rows if row.quantity == scaling.EXPONENT and "used 0.5 cores" in row.note]
    assert bool(busy) == ("cores" in options)


def test_what_is_not_installed_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Side, "is_missing", property(lambda side: True))
    (row,) = scaling.measured(scaling.CURVES[0], Context(tmp_path, True, 0, {}))
    assert row.quantity == MISSING
    assert "numba is not installed: pip install 'latentzoo[fast]'" in scaling.section([row], tmp_path)


def test_the_picture_has_a_panel_for_each_thing_that_grows(bench: Callable[..., list[Row]]) -> None:
    figure = scaling_picture.draw(bench())
    assert len(figure.axes) == len({one.symbol for one in scaling.CURVES})
    assert any("JAX on two devices (1.00)" in text.get_text() for text in figure.axes[0].get_legend().get_texts())
