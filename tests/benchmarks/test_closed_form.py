"""The suite of fits, on few rows: its rows, its files and its section."""

import json
from pathlib import Path

import pytest

import latentzoo as lz
from latentzoo.benchmarks import closed_form, runner


def test_fits_of_simulated_and_named_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(closed_form.NUM_ROWS, True, 200)
    monkeypatch.setattr(closed_form, "MOST_LIKELIHOODS", 200 * 20)
    zoo = lz.get("earthquakes")
    data, _ = zoo.simulate(seed=3, num_rows=60)
    zoo.model_room.write(data, tmp_path / "my events.csv")
    named = {"earthquakes": (str(tmp_path / "my events.csv"), {"num_components": 2})}
    assert runner.run(["closed_form"], tmp_path / "out", quick=True, catalogues=named)

    rows = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["data"], row["quantity"]): row for row in rows}
    beside = found["simulated", "ELBO, beside a fit that starts at the truth"]
    assert beside["error"] <= 1e-6 * abs(beside["value"])
    assert found["simulated", "loc: distance to the truth"]["value"] < 2.0
    held_out = found["simulated", "log density per row, of held-out rows"]
    assert held_out["value"] == pytest.approx(held_out["reference"], abs=0.2)
    assert found["my events.csv", "ELBO"]["variant"].startswith("num_components=2")

    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    for name in ("map.png", "elbo.png", "posterior.nc", "fit.npz"):
        for folder in ("simulated", "my events.csv"):
            assert (tmp_path / "out" / "closed_form" / "earthquakes" / folder / name).stat().st_size > 1000
            assert f"(closed_form/earthquakes/{folder.replace(' ', '%20')}/{name})" in text
