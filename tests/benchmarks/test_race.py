"""The race: what its numbers must be by theory, and that a race which is killed goes on to the same end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.benchmarks import data_sets, race, race_gaps, race_picture, results, runner
from latentzoo.benchmarks.race import Contestant, Run
from latentzoo.benchmarks.race_gaps import Descent, Standing, Track, compared, thinned
from latentzoo.benchmarks.results import Row
from latentzoo.inference import pictures
from latentzoo.models.language.errors import UserError

# --- what the numbers must be -----------------------------------------------------------------------------------------


def track(way: float = 1.0, pace: float = 1.0, points: int = 40, start: float = -900.0) -> Track:
    """Return a run towards the bound 0, whose gap halves at each point. way: scales the bound; pace: the seconds."""
    step = np.arange(float(points))
    return Track(step, pace * 0.1 * step, 5.0 * step, way * start * 0.5**step)


def standing(name: str, *tracks: Track, best: float = 0.0) -> Standing:
    """Return a contestant without learning rates, one run a seed."""
    return Standing.of(name, "", {None: {seed: each.descent(best) for seed, each in enumerate(tracks)}}, 0.0)


def rows_of(*standings: Standing) -> dict[tuple[str, str], Row]:
    return {(row.variant, row.quantity): row for row in compared(standings, partial(Row, "race"))}


@pytest.mark.parametrize("by", ["seconds", "gradients"])
@pytest.mark.parametrize("target", race_gaps.TARGETS)
def test_a_twin_is_as_fast(by: str, target: float) -> None:
    found = rows_of(standing("one", track(), track(pace=1.3)), standing("twin", track(), track(pace=1.3)))
    first, second = (found[name, f"{by} to gap {target:g}"] for name in ("one", "twin"))
    assert first.note == "the fastest"
    assert second.note == "x 1 (1 to 1)"
    assert first.value == second.value == first.reference == second.reference


@pytest.mark.parametrize("target", race_gaps.TARGETS)
def test_a_clock_that_runs_three_times_as_fast_makes_three_times_the_seconds_and_as_many_gradients(
    target: float,
) -> None:
    found = rows_of(standing("slow", track(pace=3.0), track(pace=6.0)), standing("fast", track(), track(pace=2.0)))
    seconds = found["slow", f"seconds to gap {target:g}"]
    assert seconds.note == "x 3 (3 to 3)"
    assert seconds.value == pytest.approx(3.0 * seconds.reference)
    assert found["slow", f"gradients to gap {target:g}"].note in ("the fastest", "x 1 (1 to 1)")


def test_ratios_are_taken_at_the_same_seed() -> None:
    paces = (1.0, 10.0, 100.0)  # the seeds differ, the contestants do not
    found = rows_of(
        standing("slow", *(track(pace=2.0 * pace) for pace in paces)),
        standing("fast", *(track(pace=pace) for pace in paces)),
    )
    assert found["slow", "seconds to gap 0.01"].note == "x 2 (2 to 2)"


def test_gaps_know_neither_the_unit_nor_the_origin_of_the_bound() -> None:
    here = track().descent(0.0)
    there = track()._replace(elbo=7.0 * track().elbo + 123.0).descent(123.0)
    np.testing.assert_allclose(there.gap, here.gap, rtol=1e-12)
    assert here.gap[0] == 1.0
    assert track()._replace(elbo=np.full(40, 5.0)).descent(5.0).gap.tolist() == [0.0] * 40  # there was no way to go


def test_who_holds_the_best_bound_has_no_gap() -> None:
    top = track(points=200)
    assert top.descent(float(top.elbo.max())).gap[-1] == 0.0


@pytest.mark.parametrize("points", [3, 6, 9])
def test_a_run_that_never_arrives_has_a_lower_bound_and_no_number(points: int) -> None:
    """Stopped early, the slow one is more than so many times slower: never more than it turns out to be."""
    whole, fast = track(pace=50.0), standing("fast", track(), track())
    cut = Track(*(values[:points] for values in whole))
    stopped = rows_of(standing("slow", cut, cut), fast)["slow", "seconds to gap 0.001"]
    assert stopped.value is None
    assert stopped.reference is not None
    assert stopped.note.startswith("> ")
    bound = float(stopped.note.removeprefix("> "))
    assert 0.9 * cut.seconds[-1] <= bound * stopped.reference <= cut.seconds[-1]
    true = rows_of(standing("slow", whole, whole), fast)["slow", "seconds to gap 0.001"]
    assert bound < float(true.note.split()[1])


def test_some_seeds_arrive_and_some_do_not() -> None:
    cut = Track(*(values[:2] for values in track(pace=3.0)))
    fast = standing("fast", track(), track(), track())
    most = rows_of(fast, standing("slow", track(pace=3.0), cut, track(pace=5.0)))["slow", "seconds to gap 0.01"]
    assert most.note == "x 5 (3 to never)"
    assert most.value is not None
    few = rows_of(fast, standing("slow", track(pace=3.0), cut, cut))["slow", "seconds to gap 0.01"]
    assert few.value is None
    assert few.note.startswith("> ")
    assert few.note.endswith("(1 of 3 seeds arrive)")


def test_nobody_arrives() -> None:
    cut = Track(*(values[:2] for values in track()))
    found = rows_of(standing("a", cut), standing("b", cut))
    for name in "ab":
        row = found[name, "seconds to gap 0.001"]
        assert (row.value, row.reference, row.note) == (None, None, "none comes so near")
    assert "0 of 1 seeds came within 0.001" in found["a", "remaining gap"].note


def test_a_run_that_leaves_the_numbers_gains_nothing() -> None:
    lost = Track(*(np.array([0.0, 1.0]) for _ in range(3)), np.array([-900.0, np.nan]))
    found = rows_of(standing("lost", Track.at(-900.0)), standing("blown", lost), standing("fast", track()))
    assert found["lost", "seconds to gap 0.1"].note == "never"
    assert found["blown", "seconds to gap 0.1"].note.startswith("> ")
    assert found["blown", "remaining gap"].value is None
    assert found["lost", "remaining gap"].value == 1.0


def test_the_cost_is_never_too_low_where_points_are_missing() -> None:
    rng = np.random.default_rng(0)
    whole = track(points=400)._replace(elbo=-np.abs(rng.normal(size=400)) * np.geomspace(900.0, 1e-3, 400))
    whole.elbo[0] = -900.0
    kept = Track(*(values[thinned(400)] for values in whole))
    for target in race_gaps.TARGETS:
        for by in race_gaps.COSTS:
            assert kept.descent(0.0).cost(by, target).needed >= whole.descent(0.0).cost(by, target).needed


def test_the_best_learning_rate_arrives_first_or_else_comes_nearest() -> None:
    def of(**grid: Track) -> Standing:
        return Standing.of("svi", "", {float(rate[1:]): {0: run.descent(0.0)} for rate, run in grid.items()}, 0.0)

    cut, nearer = (Track(*(values[:points] for values in track())) for points in (3, 4))
    quick_but_poor = track()._replace(elbo=np.append(track(pace=0.5).elbo[:-1], -0.8))
    assert of(r1=track(), r2=track(pace=0.5), r3=track(pace=2.0)).rate == 2.0
    assert of(r1=cut, r2=track(pace=100.0)).rate == 2.0  # one that arrives comes before any that does not
    assert of(r1=cut, r2=nearer).rate == 2.0
    assert of(r1=track(), r2=quick_but_poor._replace(seconds=0.05 * quick_but_poor.step)).rate == 2.0
    found = rows_of(of(r1=cut, r2=nearer))
    assert found["svi", "remaining gap"].value == found["svi", "remaining gap at learning rate 2"].value == 0.125
    assert found["svi", "remaining gap at learning rate 1"].value == 0.25
    assert found["svi", "remaining gap"].note == "learning rate 2; 1.2e-01 to 1.2e-01; 0 of 1 seeds came within 0.001"


@pytest.mark.parametrize("size", [1, 2, 59, 60, 61, 101, 1001, 100_001])
def test_thinning_keeps_the_ends_and_the_beginning(size: int) -> None:
    kept = thinned(size)
    assert kept[0] == 0
    assert kept[-1] == size - 1
    assert len(kept) <= 60
    assert len(kept) == size or len(kept) > 30
    assert (np.diff(kept) > 0).all()
    gaps = np.diff(kept)
    assert size <= 60 or (gaps[:3].max() == 1 and gaps[-1] == gaps.max())


def test_a_track_is_read_back() -> None:
    lost = track(points=3)._replace(elbo=np.array([-1.0, -np.inf, np.nan]))
    held = json.loads(json.dumps(results._plain(lost.curve)))
    back = Track.of(held)
    np.testing.assert_array_equal(back.elbo, [-1.0, np.nan, np.nan])
    np.testing.assert_array_equal(back.seconds, lost.seconds)


# --- the picture and the report ---------------------------------------------------------------------------------------


def test_seeds_on_one_axis_keep_what_they_had() -> None:
    first = Descent(np.array([0.0, 1.0, 4.0]), np.zeros(3), np.array([1.0, 0.5, 0.0]))
    second = Descent(np.array([0.0, 2.0, 3.0]), np.zeros(3), np.array([1.0, 0.4, 0.2]))
    axis, gaps = race_picture.together({0: first, 1: second}, "seconds")
    assert axis.tolist() == [2.0, 3.0, 4.0]  # where both have been seen
    assert gaps.tolist() == [[0.5, 0.5, race_picture.LEAST], [0.4, 0.2, 0.2]]


def test_a_picture_of_all_kinds(tmp_path: Path) -> None:
    grid: dict[float | None, dict[int, Descent]] = {
        rate: {seed: track(pace=rate + seed).descent(0.0) for seed in range(3)} for rate in (0.1, 0.2)
    }
    grid[0.3] = {0: Track.at(-900.0).descent(0.0)}
    svi = Standing.of("svi-numpyro", "numpyro", grid, 9.84)
    figure = race_picture.draw([standing("cavi", track(pace=0.01)), svi], "toy")
    pictures.write(figure, tmp_path / "new" / "race.png")
    assert (tmp_path / "new" / "race.png").stat().st_size > 10_000
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["cavi", "svi-numpyro, learning rate 0.1 (+ 9.8 s to compile)"]
    left, right = figure.axes
    assert left.get_xscale() == right.get_xscale() == left.get_yscale() == "log"
    race_picture.draw([standing("lost", Track.at(-900.0))], "nobody moved").canvas.draw()


def test_a_section_before_and_after_the_runs_are_summed_up(tmp_path: Path) -> None:
    row = partial(Row, "race", entry="toy", data="simulated")
    run = row("ELBO", variant="cavi, seed=0", value=-1.0)
    before = race.section([run], tmp_path)
    assert "### toy, simulated\n\nIts runs are not summed up yet." in before
    slow = Standing.of("svi-pyro", "pyro", {0.1: {0: track(pace=3.0).descent(0.0)}}, 0.0)
    rows = [run, row("best bound", value=-0.5, note="500 rows"), *compared([standing("cavi", track()), slow], row)]
    text = race.section(rows, tmp_path)
    assert "Best bound -0.5 nats. 500 rows." in text
    assert "| cavi | **0.4 s** | **0.7 s** | **1 s** |" in text
    assert "| svi-pyro | x 3 (3 to 3) | x 3 (3 to 3) | x 3 (3 to 3) |" in text
    assert "| remaining gap at learning rate | 0.1 |" in text
    assert "NUTS, climb no bound and take no part" in text
    assert "race.png" not in text  # nobody drew it


# --- runs -------------------------------------------------------------------------------------------------------------


def test_who_takes_part() -> None:
    field = [one.name for one in race.contestants(lz.get("earthquakes"))]
    assert field == ["cavi", "svi-numpyro", "svi-pyro", "svi-numpyro, minibatches"]
    entry: Any = SimpleNamespace(methods=("em", "nuts"))
    assert [one.name for one in race.contestants(entry)] == ["em"]


def test_every_run_is_a_unit_and_the_summary_reads_them_all(tmp_path: Path) -> None:
    units = [unit for unit in race.units(runner.Context(tmp_path, True, 3, {})) if unit.name.startswith("earthquakes/")]
    *runs, summary = units
    assert len({unit.name for unit in units}) == len(units) == 2 * (1 + 3 * 3) + 1
    assert summary.reads == tuple(unit.name for unit in runs)
    assert runs[0].name == "earthquakes/simulated/cavi, seed=3"
    assert runs[-1].name == "earthquakes/simulated/svi-numpyro, minibatches, learning_rate=0.1, seed=4"


def events(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Write a small catalogue of three heaps, which take several steps to find."""
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])[rng.integers(3, size=60)] + rng.normal(size=(60, 2))
    lines = ["x,y,n", *(f"{x:.6f},{y:.6f},{n}" for (x, y), n in zip(places, rng.poisson(4.0, size=60), strict=True))]
    (folder / "heaps.csv").write_text("\n".join(lines), encoding="utf-8")
    return {"earthquakes": (str(folder / "heaps.csv"), {"longitude": "x", "latitude": "y", "count": "n"})}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Race on named data only: one seed, two learning rates, one look at SVI in NumPyro."""
    monkeypatch.setattr(results, "source_files", list)  # who edits the code while this runs shall not start it anew
    everything = data_sets.sources
    monkeypatch.setattr(race, "sources", lambda *of: [one for one in everything(*of) if one.data == "heaps.csv"])
    monkeypatch.setattr(race, "contestants", lambda zoo: [Contestant("cavi"), Contestant("svi", "numpyro")])
    monkeypatch.setitem(race.LEARNING_RATES, True, (0.03, 0.1))
    monkeypatch.setattr(race, "NUM_STEPS", 50)
    monkeypatch.setattr(race, "WARM_UP", 1)
    monkeypatch.setitem(race.NUM_SEEDS, True, 1)


def held(folder: Path) -> dict[str, Row]:
    return {f"{row.quantity} | {row.variant}": row for row in results.load(folder / "results.json").rows}


@pytest.mark.usefixtures("tiny")
def test_a_small_race_and_again_when_one_run_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, catalogues = tmp_path / "out", events(tmp_path)
    assert runner.run(["race"], out, quick=True, catalogues=catalogues)
    found = held(out)
    cavi, svi = found["ELBO | cavi, seed=0"], found["ELBO | svi-numpyro, learning_rate=0.1, seed=0"]
    assert (cavi.library, svi.library, svi.data) == ("", "numpyro", "heaps.csv")
    for run in (cavi, svi):
        assert run.ok
        assert run.curve is not None
        assert run.curve["elbo"][0] == run.reference  # all from one start
        assert run.curve["elbo"][-1] == run.value
        assert [run.curve[name][0] for name in ("step", "seconds", "gradients")] == [0.0, 0.0, 0.0]
        assert run.curve["seconds"][-1] == pytest.approx(run.seconds)
    assert cavi.reference == svi.reference
    assert svi.curve["gradients"] == [0.0, 50.0]
    assert (found["remaining gap | svi-numpyro"].compile_seconds or 0.0) > 0.0
    best = found["best bound | "]
    assert best.value == max(value for run in found.values() for value in (run.curve or {}).get("elbo", []))
    assert "60 rows of heaps.csv" in best.note
    picture = out / "race" / "earthquakes" / "heaps.csv" / "race.png"
    assert picture.stat().st_size > 10_000
    assert "(race/earthquakes/heaps.csv/race.png)" in (out / "results.md").read_text(encoding="utf-8")

    # As though the bench had been killed before this run was measured.
    left = results.load(out / "results.json")
    lost = "race/earthquakes/heaps.csv/cavi, seed=0"
    left.begin(lost)
    del left.done[lost]
    left.save()
    capsys.readouterr()
    assert runner.run(["race"], out, quick=True, catalogues=catalogues)
    said = capsys.readouterr().err
    assert "going on: 3 units of work are done" in said
    assert "[2/2" in said
    again = held(out)
    assert again.keys() == found.keys()
    assert again["ELBO | svi-numpyro, learning_rate=0.1, seed=0"] == svi
    assert again["ELBO | cavi, seed=0"].value == cavi.value
    assert again["ELBO | cavi, seed=0"].seconds != cavi.seconds
    ours, new = (rows["seconds to gap 0.001 | cavi"].value for rows in (again, found))
    assert ours != new  # the summary was made anew


def test_a_run_that_leaves_the_numbers_is_a_row_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blown(*args: Any, **options: Any) -> None:
        raise UserError("the bound is nan at step 50")

    monkeypatch.setattr(race.Course, "start", lambda course, run: None)
    monkeypatch.setattr(race.Course, "elbo", lambda course, run, params: -900.0)
    monkeypatch.setattr(race.Course, "fit", blown)
    task: Any = SimpleNamespace(zoo=SimpleNamespace(name="toy"), name="simulated")
    course = race.Course(data_sets.Source("toy", "simulated", lambda: task))
    context = runner.Context(tmp_path, True, 0, {})
    (row,) = race._measured(course, Run(Contestant("svi", "pyro"), 0.3, 0), context)
    assert (row.ok, row.value, row.note) == (False, None, "the bound is nan at step 50")
    assert Track.of(row.curve).elbo.tolist() == [-900.0]
    with pytest.raises(UserError, match="no run of this data set came to its end"):
        list(race._summed_up(course, {}, context))


# --- killed -----------------------------------------------------------------------------------------------------------

SMALL = """
import sys
from latentzoo.benchmarks import race, results
from latentzoo.cli import main
results.source_files = list  # who edits the code while this runs shall not start it anew
race.LEARNING_RATES[True], race.NUM_STEPS, race.NUM_ROWS[True] = (0.03, 0.1), 100, 100
sys.exit(main(["bench", "race", "--quick", "-o", sys.argv[1]]))
"""


def bench(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SMALL, str(folder)], stderr=subprocess.PIPE, text=True)


def stop_after(folder: Path, num_units: int, how: signal.Signals) -> int:
    """Start the bench and send it a signal while it is at work on its next unit; return its exit status."""
    process = bench(folder)
    assert process.stderr is not None
    while num_units:
        line = process.stderr.readline()
        assert line.startswith(("[", "going on")), line
        num_units -= " ok race/" in line
    time.sleep(0.1)
    while process.poll() is None:
        process.send_signal(how)
        # Python loses an interrupt that comes while it collects garbage, where JAX has a callback: send it again then.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
    return process.returncode


def measured(folder: Path) -> Iterator[tuple[str, str, str, str, bool | None]]:
    for row in results.load(folder / "results.json").rows:
        yield row.work, row.quantity, row.variant, row.library, row.ok


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_race_that_is_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = bench(tmp_path / "whole")
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    assert stop_after(tmp_path / "killed", 1, signal.SIGKILL) == -signal.SIGKILL
    done = set(results.load(tmp_path / "killed" / "results.json").done)
    assert done == {"race/earthquakes/simulated/cavi, seed=0"}  # NumPyro was compiling
    assert stop_after(tmp_path / "killed", 2, signal.SIGINT) == 130
    assert "stopped before its end" in (tmp_path / "killed" / "results.md").read_text(encoding="utf-8")
    last = bench(tmp_path / "killed")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0
    assert "going on: " in said
    assert sorted(measured(tmp_path / "killed")) == sorted(measured(tmp_path / "whole"))
    final = results.load(tmp_path / "killed" / "results.json")
    assert final.finished is not None
    assert done < set(final.done)
    assert (tmp_path / "killed" / "race" / "earthquakes" / "simulated" / "race.png").stat().st_size > 10_000
