"""The report on the libraries: every verdict is as recorded, a verdict is what a program did, and the page is whole."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from latentzoo.benchmarks import conformance
from latentzoo.benchmarks.conformance_cases import page, sweep
from latentzoo.benchmarks.conformance_cases.case import PEERS, Case, Outcome, Peer, Verdict, cases, judge, run, source
from latentzoo.cli import main

RECORD = (
    "{what}: {peer} gives {verdict!r}, recorded was {recorded!r} ({message}). If a new version of the library is"
    " installed, read what changed, and record the verdict, its note and RECORDED_WITH anew; if not, the case is wrong."
)
# Those that compile much: seconds each.
SLOW = {("RenyiAtWishart", "numpyro"), ("JointGuide", "numpyro"), ("DeterministicOfEnumerated", "numpyro")}


# --- the libraries ----------------------------------------------------------------------------------------------------


def _programs() -> list[Any]:
    """Return every case with each library, those that take long marked as slow."""
    found = [(case, peer) for case in cases() for peer in case.verdicts]
    marks = {True: [pytest.mark.slow], False: []}
    return [
        pytest.param(case, peer, id=f"{case.__name__}-{peer}", marks=marks[(case.__name__, peer) in SLOW])
        for case, peer in found
    ]


@pytest.mark.parametrize(("case", "peer"), _programs())
def test_a_verdict_is_as_recorded(case: type[Case], peer: Peer) -> None:
    pytest.importorskip(peer)
    found = run(case, peer)
    assert not found.changed, RECORD.format(what=case.__name__, **found._asdict())


@pytest.mark.parametrize(("loss", "site"), sweep.COLUMNS)
@pytest.mark.parametrize("peer", ["pyro", pytest.param("numpyro", marks=pytest.mark.slow)])
def test_the_sweep_is_as_recorded(peer: Peer, loss: str, site: sweep.Site) -> None:
    names = [name for name, feature in sweep.FEATURES.items() if sweep.applies(loss, site, feature)]
    assert names
    for found in (sweep.cell(peer, loss, site, name) for name in names):
        assert not found.changed, RECORD.format(what=f"{loss}, {site}, {found.feature}", **found._asdict())


def test_the_exact_bound_of_the_sweep_is_an_integral() -> None:
    feature = sweep.FEATURES["minibatch"]
    params = sweep._start("normal", feature)

    def integrand(z: float, row: int) -> float:
        q = stats.norm(params[row], np.exp(params[2 + row]))
        log_p = stats.norm.logpdf(z) + stats.norm.logpdf(feature.x[row], z)
        return q.pdf(z) * (log_p - q.logpdf(z))

    rows = [integrate.quad(integrand, -12, 12, args=(row,), epsabs=1e-12)[0] for row in (0, 1)]
    assert sweep._exact("normal", feature)[0] == pytest.approx(3 * sum(rows), abs=1e-9)


def test_recorded_features_and_columns_exist() -> None:
    for (peer, loss, site), faults in sweep.RECORDED.items():
        assert peer in sweep.SWEPT
        assert (loss, site) in sweep.COLUMNS
        assert {name for names in faults.values() for name in names} <= set(sweep.FEATURES)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def warning(kind: type[Warning]) -> float:
    warnings.warn("look out\nin two lines", kind, stacklevel=1)
    return 2.0


def failing(error: Exception) -> float:
    raise error


@pytest.mark.parametrize(
    ("program", "verdict", "message"),
    [
        (lambda: 1.0 + 1e-11, "right", ""),
        (lambda: 1.0 + 1e-9, "wrong", ""),
        (lambda: [1.0, 1.0], "wrong", ""),
        (lambda: float("nan"), "wrong", ""),
        (lambda: warning(UserWarning), "warns", "UserWarning: look out"),
        (lambda: warning(DeprecationWarning), "wrong", ""),
        (lambda: failing(KeyError("z")), "raises", "KeyError: 'z'"),
        (lambda: failing(AssertionError()), "raises", "AssertionError"),
        (lambda: failing(ImportError("no such name")), "absent", "ImportError: no such name"),
        (None, "absent", ""),
    ],
)
def test_a_verdict_is_what_a_program_did(program: Callable[[], Any] | None, verdict: Verdict, message: str) -> None:
    assert judge(program, "sklearn", np.array([1.0]), 1e-10)[1:] == (verdict, message)


def test_a_program_leaves_nothing_behind() -> None:
    import pyro
    import torch

    def program() -> float:
        pyro.param("loc", torch.tensor(1.0))
        assert pyro.param("kept", torch.tensor(2.0)).item() == 2.0
        return float(torch.tensor(0.1).double() == 0.1)  # only in float64

    pyro.param("kept", torch.tensor(3.0))
    state = torch.random.get_rng_state()
    assert judge(program, "pyro", np.array([1.0]), 0.0)[1] == "right"
    assert judge(program, "pyro", np.array([0.0]), 0.0, "float32")[1] == "right"
    assert dict(pyro.get_param_store()) == {"kept": 3.0}
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.random.get_rng_state(), state)


# --- the page ---------------------------------------------------------------------------------------------------------


class Toy(Case):
    """A case whose peers are standard Python."""

    title = "a sum is wrong"
    user = "adds 1 and 2"
    known = "by hand"
    tolerance = 0.5
    verdicts = {"pyro": "right", "sklearn": "wrong", "numpyro": "absent", "jax": "raises"}  # noqa: RUF012

    @staticmethod
    def exact() -> list[float]:
        return [3.0, -np.inf]

    @staticmethod
    def pyro() -> list[float]:
        return [4.0, -np.inf]

    @staticmethod
    def sklearn() -> list[float]:
        return [5.0, -np.inf]

    @staticmethod
    def jax() -> float:
        raise ValueError("1 | 2")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report on one toy and two cells."""
    cells = [
        sweep.cell("pyro", "TraceEnum_ELBO", "enumerated in the model", name) for name in ("plate", "vector scale")
    ]
    monkeypatch.setattr(conformance, "cases", lambda: [Toy])
    monkeypatch.setattr(page, "cases", lambda: [Toy])
    monkeypatch.setattr(sweep, "sweep", lambda peer: cells if peer == "pyro" else [])


@pytest.mark.usefixtures("toy")
def test_the_command_writes_a_page_and_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "-o", str(tmp_path)]) == 0  # although a verdict changed
    printed = capsys.readouterr().out
    assert "wrong, was right" in printed
    assert "changed since they were recorded: 1." in printed
    text = (tmp_path / "conformance.md").read_text(encoding="utf-8")
    assert "| [Toy](#toy) | a sum is wrong | 3 | 🟥 4, **wrong, was right**<br>🟥 scikit-learn: 5, wrong |" in text
    assert "🟨 JAX: raises" in text
    assert "`ValueError: 1 | 2`" in text
    assert "| TraceEnum_ELBO, enumerated in the model | 🟩 |" in text
    held = json.loads((tmp_path / "conformance.json").read_text(encoding="utf-8"))
    libraries = held["cases"][0]["libraries"]
    assert held["cases"][0]["exact"] == [3.0, "-inf"]
    assert libraries["pyro"] | {"program": ""} == {
        "verdict": "wrong",
        "recorded": "right",
        "value": [4.0, "-inf"],
        "message": "",
        "program": "",
    }
    assert libraries["numpyro"]["program"] is None
    assert [cell["verdict"] for cell in held["sweep"]] == ["right", "raises"]


@pytest.mark.usefixtures("toy")
def test_the_suite_has_a_row_for_each_program_and_cell(tmp_path: Path) -> None:
    rows = [row for unit in conformance.units(None) for row in unit.work()]  # type: ignore[arg-type]
    assert [row.library for row in rows] == ["Pyro", "scikit-learn", "NumPyro", "JAX", "Pyro", "Pyro"]
    assert all(row.ok is None for row in rows)  # a fault of a library is no failure of the bench
    assert (rows[0].value, rows[0].reference, rows[0].error) == (4.0, 3.0, 1.0)
    assert rows[3].value is None
    section = conformance.section(rows, tmp_path)
    assert "🟥" in section
    assert "🟨" in section


def test_every_case_is_told_in_full() -> None:
    names = [case.__name__ for case in cases()]
    assert len(names) == len(set(names))
    for case in cases():
        assert set(case.verdicts) <= set(PEERS), case
        assert all(vars(case)[word] for word in ("title", "user", "known", "verdicts")), case
        for peer in PEERS:
            text = source(case, peer)
            assert bool(text) == (case.verdicts.get(peer, "absent") != "absent"), (case, peer)
            assert "latentzoo" not in text


@pytest.mark.parametrize(("name", "peer"), [("PythonFloats", "pyro"), ("UnnormalisedProbabilities", "numpyro")])
def test_a_program_of_the_page_runs_as_it_stands(name: str, peer: Peer) -> None:
    (case,) = (case for case in cases() if case.__name__ == name)
    done = subprocess.run([sys.executable, "-c", page.listing(case, peer)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: Outcome = run(case, peer)
    assert found.value is not None
    assert float(done.stdout) == pytest.approx(found.value[0], abs=1e-15)
