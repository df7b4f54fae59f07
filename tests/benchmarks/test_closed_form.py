"""The suite of fits, on few rows: its rows, its files and its section."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.benchmarks import closed_form, data_sets, runner
from latentzoo.benchmarks.results import Row
from latentzoo.inference import arviz_export
from latentzoo.inference.result import Fit

FILES = ("map.png", "elbo.png", "posterior.nc", "fit.npz")


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(closed_form.NUM_ROWS, True, 200)
    monkeypatch.setattr(arviz_export, "MOST_VALUES", 200 * 100)


def run(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    assert runner.run(["closed_form"], folder, quick=True, **options)
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["quantity"]: row for row in rows if row["entry"] == "earthquakes"}


def named_only(context: runner.Context, *sizes: int, **more: int) -> list[data_sets.Source]:
    every = data_sets.sources(context, 1)
    return [source for source in every if source.entry in context.catalogues and source.data != "simulated"]


def few_draws(fit: Fit, **options: Any) -> Any:
    """Stand in for `Fit.to_arviz`, which compiles the guide."""
    import arviz as az

    return az.from_dict(posterior={"loc": fit.params.phi.loc_mean[None, None]}, dims={"loc": ["components"]})


def test_a_data_set_that_the_user_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["day,x,y,n", *(f"1,{i % 7},{i % 5},{i % 3}" for i in range(60)), "2,1,here,3"]
    (tmp_path / "my events.csv").write_text("\n".join(lines), encoding="utf-8")
    options = {"num_components": 2, "longitude": "x", "latitude": "y", "count": "n", "on_bad": "skip"}
    units = list(closed_form.units(runner.Context(tmp_path, True, 0, {"earthquakes": ("my events.csv", {})})))
    assert [unit.name for unit in units if "earthquakes" in unit.name] == [
        "earthquakes/simulated",
        "earthquakes/my events.csv",
    ]
    monkeypatch.setattr(closed_form, "sources", named_only)
    monkeypatch.setattr(Fit, "evaluate", lambda fit: {"log_density_per_row": -5.0})
    monkeypatch.setattr(Fit, "to_arviz", few_draws)
    found = run(tmp_path / "out", catalogues={"earthquakes": (str(tmp_path / "my events.csv"), options)})
    assert found["ELBO"]["variant"].startswith("num_components=2")
    assert found["ELBO"]["note"].startswith("60 rows of my events.csv")
    assert "left out" in found["ELBO"]["note"]
    assert found["steps"]["value"] > 1
    assert found["log density per row, of the fitted rows"]["value"] == -5.0
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    for name in FILES:
        assert (tmp_path / "out" / "closed_form" / "earthquakes" / "my events.csv" / name).stat().st_size > 1000
        assert f"(closed_form/earthquakes/my%20events.csv/{name})" in text


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_data_that_the_model_drew(tmp_path: Path) -> None:
    found = run(tmp_path)
    beside = found["ELBO, beside a fit that starts at the truth"]
    assert beside["error"] <= 1e-6 * abs(beside["value"])
    assert found["loc: distance to the truth"]["value"] < 2.0
    held_out = found["log density per row, of held-out rows"]
    assert held_out["value"] == pytest.approx(held_out["reference"], abs=0.2)
    for name in FILES:
        assert (tmp_path / "closed_form" / "earthquakes" / "simulated" / name).stat().st_size > 1000


def test_the_truth_is_found_under_other_labels() -> None:
    truth = {"loc": np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), "component": np.zeros(5)}
    draws = truth["loc"][[2, 0, 1]] + 0.1 * np.random.default_rng(0).normal(size=(400, 3, 2))
    zoo = lz.get("earthquakes")
    posterior = {"loc": draws, "weights": draws[..., 0]}
    fit = SimpleNamespace(entry=zoo, prior=zoo.prior(), is_point=False, seed=0, posterior=lambda num, seed: posterior)
    (row,) = closed_form._recovery(partial(Row, "closed_form"), fit, truth)
    assert row.quantity == "loc: distance to the truth"
    assert row.value is not None
    assert row.value < 0.05


def test_a_start_at_the_truth_has_its_centres() -> None:
    zoo = lz.get("earthquakes")
    rng = np.random.default_rng(0)
    component = np.arange(90) % 3
    location = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[component] + 0.1 * rng.normal(size=(90, 2))
    data = zoo.Data(location, np.full(90, 4.0))
    fit = lz.fit(zoo, data, progress=False)
    task = closed_form.Task(zoo, "toy", data, zoo.prior(data), "")
    start = closed_form._start_at_truth(task, fit, {"component": component})
    assert start is not None
    np.testing.assert_allclose(start.phi.loc_mean, [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], atol=0.3)
    assert closed_form._start_at_truth(task, fit, {}) is None
