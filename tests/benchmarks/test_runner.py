"""Benches: what is kept of them, how they go on after a stop, and what becomes of a unit that fails."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from latentzoo.benchmarks import report, results, runner
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.models.language.errors import UserError

Work = Callable[[], Iterable[Row]]


class Toy:
    """A suite whose units are given, and which counts how often each is run."""

    SUITE = "a toy"

    def __init__(self, **works: Work):
        self.works, self.runs = works, dict.fromkeys(works, 0)
        self.reads: dict[str, tuple[str, ...]] = {}
        self.context: Context | None = None

    def units(self, context: Context) -> Iterator[Unit]:
        self.context = context
        for name in self.works:
            yield Unit(name, lambda name=name: self._run(name), self.reads.get(name, ()))

    def _run(self, name: str) -> Iterator[Row]:
        self.runs[name] += 1
        yield from self.works[name]()

    def section(self, rows: Sequence[Row], folder: Path) -> str:
        return report.table(["quantity", "value"], [[row.quantity, report.number(row.value)] for row in rows])


def good() -> Iterator[Row]:
    yield Row("toy", "height", entry="a", value=1.5, unit="m", ok=True)
    yield Row("toy", "width", entry="a", value=float("inf"))


def poor() -> Iterator[Row]:
    yield Row(
        "toy", "weight", entry="a", value=2.0, reference=1.0, error=1.0, tolerance=1e-10, ok=False, note="by hand"
    )


def mistaken() -> Iterator[Row]:
    yield Row("toy", "depth", entry="a", value=3.0)
    raise UserError("depth is None: give a number")


def broken() -> Iterable[Row]:
    raise ZeroDivisionError("division by\nzero")


def stopped() -> Iterator[Row]:
    yield Row("toy", "half", entry="a", value=0.5)
    raise KeyboardInterrupt


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., bool]:
    """Run a toy suite in one and the same folder."""

    def run(toy: Toy, **options: int) -> bool:
        monkeypatch.setattr(runner, "suites", lambda: {"toy": toy.SUITE})
        monkeypatch.setattr(runner, "load", lambda name: toy)
        return runner.run(["toy"], tmp_path, **options)  # type: ignore[arg-type]

    return run


def held(folder: Path) -> dict[str, dict[str, object]]:
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["quantity"]: row for row in rows}


def test_suites_are_found_by_their_declaration() -> None:
    found = runner.suites()
    known = {"agreement", "closed_form", "conformance", "estimators", "queries", "race", "samplers", "speed"}
    known |= {"scaling", "training", "two_modes"}
    assert set(found) == known
    for name, line in found.items():
        suite = runner.load(name)
        assert line == suite.SUITE
        assert callable(suite.units)
        assert callable(suite.section)


def test_every_model_and_variant_and_library_is_a_unit_of_the_agreement(tmp_path: Path) -> None:
    found = [unit.name for unit in runner.load("agreement").units(Context(tmp_path, True, 0, {}))]
    assert len(set(found)) == len(found)
    assert len([name for name in found if name.startswith("earthquakes")]) == 2 * 3 * 2


def test_rows_are_kept_timed_and_read_back(bench: Callable[..., bool], tmp_path: Path) -> None:
    assert bench(Toy(good=good))
    found = results.load(tmp_path / "results.json")
    height, width = found.rows
    assert (height.value, height.unit, height.ok, height.work) == (1.5, "m", True, "toy/good")
    assert height.seconds is not None
    assert height.seconds >= 0.0
    assert width.value is None  # infinite
    assert set(found.done) == {"toy/good"}
    assert found.finished is not None
    assert {"seed", "quick", "catalogues", "versions", "machine", "code"} == set(found.settings)
    assert {"platform", "cpu", "cores", "memory_gib"} == set(found.settings["machine"])
    again = results.Results(tmp_path / "again.json", **{k: v for k, v in vars(found).items() if k != "path"})
    again.save()
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "results.json").read_bytes()


def test_a_bench_that_was_stopped_goes_on(bench: Callable[..., bool], tmp_path: Path) -> None:
    first = Toy(good=good, half=stopped, rest=good)
    with pytest.raises(KeyboardInterrupt):
        bench(first)
    left = results.load(tmp_path / "results.json")
    assert left.finished is None
    assert [row.work for row in left.rows] == ["toy/good", "toy/good", "toy/half"]
    assert "stopped before its end" in (tmp_path / "results.md").read_text(encoding="utf-8")

    second = Toy(good=good, half=good, rest=good)
    assert bench(second)
    assert second.runs == {"good": 0, "half": 1, "rest": 1}
    found = results.load(tmp_path / "results.json")
    assert found.started == left.started
    assert found.finished is not None
    assert [row.work for row in found.rows] == [f"toy/{work}" for work in ("good", "half", "rest") for _ in "12"]


class Summed(Toy):
    """A toy with a unit that sums the values of others up."""

    def __init__(self, **works: Work):
        super().__init__(**works, total=self._total)
        self.reads = {"total": tuple(works)}

    def _total(self) -> Iterator[Row]:
        assert self.context is not None
        works = {f"toy/{read}" for read in self.reads["total"]}
        values = [row.value or 0.0 for row in self.context.rows() if row.work in works]
        yield Row("toy", "sum", entry="a", value=sum(values))


def one() -> Iterator[Row]:
    yield Row("toy", "one", entry="a", value=1.0)


def two() -> Iterator[Row]:
    yield Row("toy", "two", entry="a", value=2.0)


def test_a_unit_that_reads_others_is_made_anew_with_them(bench: Callable[..., bool], tmp_path: Path) -> None:
    assert not bench(Summed(one=one, two=broken))
    assert held(tmp_path)["sum"]["value"] == 1.0
    second = Summed(one=one, two=two)
    assert bench(second)
    assert second.runs == {"one": 0, "two": 1, "total": 1}
    assert held(tmp_path)["sum"]["value"] == 3.0
    third = Summed(one=one, two=two)
    assert bench(third)
    assert third.runs == {"one": 0, "two": 0, "total": 0}


def test_a_unit_that_reads_others_is_made_anew_after_a_stop_between_them(
    bench: Callable[..., bool], tmp_path: Path
) -> None:
    assert not bench(Summed(one=one, two=broken))
    stopped_between = Summed(one=one, two=two, three=stopped)
    stopped_between.reads = {"total": ("one", "two")}
    with pytest.raises(KeyboardInterrupt):
        bench(stopped_between)
    left = results.load(tmp_path / "results.json")
    assert "toy/two" in left.done
    assert "toy/total" not in left.done
    assert "sum" not in held(tmp_path)  # the old one is no sum of what is there
    last = Summed(one=one, two=two)
    assert bench(last)
    assert last.runs == {"one": 0, "two": 0, "total": 1}
    assert held(tmp_path)["sum"]["value"] == 3.0


def test_curves_are_kept_with_what_is_not_finite_as_null(bench: Callable[..., bool], tmp_path: Path) -> None:
    curve = {"step": np.arange(3), "elbo": [np.float64(-2.5), float("nan"), -np.inf]}
    row = Row("toy", "run", entry="a", compile_seconds=np.float64(0.5), curve={k: list(v) for k, v in curve.items()})
    assert bench(Toy(run=lambda: [row]))
    (found,) = results.load(tmp_path / "results.json").rows
    assert found.curve == {"step": [0, 1, 2], "elbo": [-2.5, None, None]}
    assert found.compile_seconds == 0.5


def test_results_of_an_earlier_schema_are_refused_and_left_as_they_are(
    bench: Callable[..., bool], tmp_path: Path
) -> None:
    bench(Toy(good=good))
    path = tmp_path / "results.json"
    path.write_text(path.read_text(encoding="utf-8").replace(f'"schema": {results.SCHEMA}', '"schema": 1'), "utf-8")
    before = path.read_bytes()
    with pytest.raises(UserError, match="another schema: this version reads 2"):
        bench(Toy(good=good))
    assert path.read_bytes() == before


def test_other_settings_start_anew_and_say_so(
    bench: Callable[..., bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(Toy(good=good), seed=0)
    toy = Toy(good=good)
    bench(toy, seed=1)
    assert toy.runs == {"good": 1}
    assert "starting anew, since seed changed" in capsys.readouterr().err
    assert results.load(tmp_path / "results.previous.json").settings["seed"] == 0


def test_a_unit_that_fails_is_a_failed_row_and_stops_no_other(bench: Callable[..., bool], tmp_path: Path) -> None:
    toy = Toy(mistaken=mistaken, broken=broken, good=good)
    assert not bench(toy)
    found = held(tmp_path)
    assert found["mistaken"]["note"] == "depth is None: give a number"
    assert found["broken"]["note"] == "ZeroDivisionError: division by zero"
    assert not found["mistaken"]["ok"]
    assert {"depth", "height"} < set(found)

    assert not bench(toy)  # what failed is tried again, what is done is not
    assert toy.runs == {"mistaken": 2, "broken": 2, "good": 1}
    assert len(results.load(tmp_path / "results.json").rows) == 5


def test_a_claim_that_does_not_hold_fails_the_bench_each_time(bench: Callable[..., bool]) -> None:
    toy = Toy(poor=poor, good=good)
    assert not bench(toy)
    assert not bench(toy)
    assert toy.runs == {"poor": 1, "good": 1}


def test_a_suite_that_cannot_list_its_units_fails_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy, bad = Toy(good=good), Toy()
    monkeypatch.setattr(bad, "units", lambda context: 1 / 0)
    monkeypatch.setattr(runner, "suites", lambda: {"bad": "bad", "toy": "a toy"})
    monkeypatch.setattr(runner, "load", lambda name: {"bad": bad, "toy": toy}[name])
    assert not runner.run([], tmp_path)
    assert toy.runs == {"good": 1}
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[1/2, about")
    assert "FAILED bad/its units: ZeroDivisionError" in lines[0]
    assert "ok toy/good: 2 rows, 0 failed" in lines[1]


def test_the_report_puts_failures_first(bench: Callable[..., bool], tmp_path: Path) -> None:
    bench(Toy(poor=poor, broken=broken, good=good))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "**2 of 3 claims do not hold.**" in text
    failures, section = text.index("## Failures"), text.index("## toy: a toy")
    assert failures < section
    assert "weight is 2 against 1, off by 1 (allowed 1e-10); by hand" in text[failures:section]
    assert "ZeroDivisionError: division by zero" in text[failures:section]
    assert "| height | 1.5 |" in text[section:]


def test_mistakes_are_told_before_anything_runs(bench: Callable[..., bool], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no suite 'agrement'; did you mean 'agreement'"):
        runner.run(["agrement"], tmp_path)
    with pytest.raises(UserError, match=r"cannot read nothing\.csv: No such file"):
        runner.run([], tmp_path, catalogues={"earthquakes": ("nothing.csv", {})})
    with pytest.raises(UserError, match="no model 'eathquakes'; did you mean 'earthquakes'"):
        runner.run([], tmp_path, catalogues={"eathquakes": ("nothing.csv", {})})
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="does not hold results of a bench"):
        bench(Toy(good=good))
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == "{}"
