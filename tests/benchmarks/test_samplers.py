"""The suite of the samplers: its claims hold, and a wrong sampler fails."""

from pathlib import Path

import numpy as np
import pytest

from latentzoo.benchmarks import samplers
from latentzoo.benchmarks.runner import Context


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(samplers, "NUM_DRAWS", {True: 5000})
    return Context(tmp_path, True, 0, {})


def test_claims_hold_and_a_section_has_them(context: Context) -> None:
    wanted = {"exponential", "straight-through", "picture"}
    rows = [row for unit in samplers.units(context) if unit.name in wanted for row in unit.work()]
    claims = [row for row in rows if row.ok is not None]
    assert len(claims) == 6
    assert all(row.ok for row in claims)
    page = samplers.section(rows, context.folder)
    assert "| exponential |" in page
    assert "samplers/samplers.png" in page
    assert (context.folder / "samplers" / "samplers.png").stat().st_size > 10_000


def test_a_wrong_sampler_fails(context: Context) -> None:
    right = samplers.contestants()[0]
    wrong = right._replace(draw=lambda u: 1.1 * right.draw(u))
    fit = next(row for row in samplers._measured(wrong, context, 0.001) if row.quantity == samplers.FIT)
    assert fit.ok is False
    assert np.isfinite(fit.value or np.nan)
