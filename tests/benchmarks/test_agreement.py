"""The suite of proofs: how checks become rows, and rows a table. The proofs themselves are tested beside `verify`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentzoo.benchmarks import agreement, runner
from latentzoo.inference.checks import Check


def check(quantity: str, point: str, error: float, way: str = "conjugate probe", ok: bool = True) -> Check:
    numbers: dict[str, Any] = {"hand": 1.0, "automatic": 1.0 + error, "error": error, "tolerance": 1e-10, "ok": ok}
    return Check("earthquakes", "noise=known", "pyro", point, quantity, way, **numbers, where="")


CHECKS = (
    check("elbo", "random point 0", 1e-14),
    check("elbo", "random point 1", 3e-13),
    check("elbo", "the optimum", 2e-14, "zero-variance certificate"),
    check("phi.loc_mean", "random point 0", 5e-14),
    check("phi.loc_mean", "random point 1", float("nan"), ok=False),
)


def test_a_row_is_the_worst_of_the_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def verify(name: str, **options: Any) -> SimpleNamespace:
        asked.update(options, name=name)
        return SimpleNamespace(rows=CHECKS)

    monkeypatch.setattr(agreement, "verify", verify)
    context = runner.Context(tmp_path, True, 7, {})
    unit = next(unit for unit in agreement.units(context) if unit.name.startswith("earthquakes"))
    elbo, gradient = unit.work()
    assert asked["name"] == "earthquakes"
    assert (asked["seed"], asked["num_points"], asked["progress"]) == (7, 3, False)
    assert (elbo.quantity, elbo.error, elbo.tolerance, elbo.ok) == ("elbo", 3e-13, 1e-10, True)
    assert elbo.note == "conjugate probe; zero-variance certificate"
    assert (gradient.quantity, gradient.ok) == ("phi.loc_mean", False)


def test_a_line_for_each_variant_and_library(tmp_path: Path) -> None:
    row = agreement._row
    rows = [row(list(CHECKS[:3])), row([CHECKS[3]])]
    text = agreement.section(rows, tmp_path)
    assert "| earthquakes | noise=known | pyro | 3.0e-13 (1e-10) | 5.0e-14 (1e-10) | 1, 2 | yes |" in text
    assert "1. conjugate probe; zero-variance certificate\n2. conjugate probe" in text
    failed = agreement.section([row(list(CHECKS[3:]))._replace(error=None)], tmp_path)
    assert "| – | not finite | 1 | **NO** |" in failed
