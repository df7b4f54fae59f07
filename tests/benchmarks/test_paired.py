"""Pairs of fresh processes: which of them count, what a process answers, and what becomes of one that does not."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from latentzoo.benchmarks import fresh
from latentzoo.benchmarks.fresh import MEMORY, POINT, SECONDS, Peak, seconds_per_iteration
from latentzoo.benchmarks.paired import LEAST, MISSING, MOST, TIMES, Comparison, Others, Side, compared, run_pairs
from latentzoo.benchmarks.results import Row
from latentzoo.models.language.errors import UserError

OURS = Side("a.module", "ours", "our loop", options={"size": 1000})
PEER = Side("a.module", "peer", "their loop", "Peer", options={"size": 1000})
BIGRAMS = Side("latentzoo.benchmarks.speed_sides", "scipy_bigrams", "sums", options={"size": 500, "budget": 0.01})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, Any]]]:
    """Let sides answer with given seconds, while others use given cores; return the sides as they run."""

    def give(ours: Sequence[float], peer: Sequence[float], cores: Sequence[float | None]) -> list[tuple[str, Any]]:
        seconds, ran = {"ours": iter(ours), "peer": iter(peer)}, []

        def run(side: Side, seed: int, max_seconds: float = 0.0) -> dict[str, float]:
            ran.append((side.name, side.options))
            return {SECONDS: next(seconds[side.name]), MEMORY: 3.0}

        def reads() -> Iterator[tuple[float, float | None, float]]:
            for used in cores:
                yield 0.0, 100.0, 50.0
                yield 10.0, None if used is None else 100.0 + 8.0 + 10.0 * used, 58.0

        told = reads()
        monkeypatch.setattr(Side, "run", run)
        monkeypatch.setattr(Others, "_read", staticmethod(lambda: next(told)))
        return ran

    return give


def test_sides_run_in_turn_and_ratios_are_those_of_pairs(answers: Callable[..., Any]) -> None:
    ran = answers([1.0, 2.0, 1.0], [10.0, 24.0, 9.0], [0.0, 0.05, 0.0])
    found = run_pairs(OURS, PEER, seed=0, num_pairs=3)
    assert [name for name, _ in ran] == ["ours", "peer"] * 3
    assert found.ratios() == [9.0, 10.0, 12.0]
    assert found.quiet
    assert found.note == "median of 3 pairs, undisturbed"


def test_a_pair_that_was_disturbed_is_dropped_and_made_up_for(answers: Callable[..., Any]) -> None:
    answers([1.0, 7.0, 1.0, 1.0], [10.0, 10.0, 11.0, 12.0], [0.0, 0.5, 0.09, 0.0])
    found = run_pairs(OURS, PEER, seed=0, num_pairs=3)
    assert found.ratios() == [10.0, 11.0, 12.0]
    assert found.note == "median of 3 pairs, undisturbed, after 1 disturbed"


def test_on_a_busy_machine_all_pairs_count_and_nothing_is_claimed(answers: Callable[..., Any]) -> None:
    ran = answers([1.0] * 5, [10.0] * 5, [0.6, 0.0, 0.8, 0.7, 0.9])
    one = Comparison("a", "b", OURS, PEER, times=5.0, at_most={MEMORY: 1.0})
    rows = list(compared("speed", one, quick=False, seed=0, num_pairs=3))
    assert len(ran) == 2 * 5  # three, and half as many again
    assert all(row.ok is None for row in rows)
    ratio = next(row for row in rows if row.quantity == TIMES)
    assert "median of 5 pairs, 1 of them undisturbed" in ratio.note
    assert "other processes used 0.7 cores" in ratio.note


def test_where_nobody_can_tell_the_note_says_so(answers: Callable[..., Any]) -> None:
    answers([1.0, 1.0], [10.0, 10.0], [None, None])
    found = run_pairs(OURS, PEER, seed=0, num_pairs=2)
    assert found.quiet
    assert "is not known" in found.note


def test_what_is_asked_is_judged_by_the_median(answers: Callable[..., Any]) -> None:
    answers([0.1, 0.1, 0.1], [0.9, 0.95, 5.0], [0.0] * 3)
    one = Comparison("a", "N = {size:,}", OURS, PEER, times=10.0, at_most={MEMORY: 16.0})
    found = {(row.quantity, row.library): row for row in compared("speed", one, quick=False, seed=0, num_pairs=3)}
    ratio = found[TIMES, "Peer"]
    assert ratio.value == pytest.approx(9.5)
    assert ratio.ok is False
    assert ratio.error == pytest.approx(0.5)
    assert (found[LEAST, "Peer"].value, found[MOST, "Peer"].value) == pytest.approx((9.0, 50.0))
    assert found[MEMORY, "latentzoo"].ok is True
    assert found[MEMORY, "Peer"].ok is None
    assert ratio.variant == "N = 1,000"
    assert ratio.data == "against their loop"


def test_a_quick_bench_of_smaller_size_names_it_and_claims_nothing(answers: Callable[..., Any]) -> None:
    ran = answers([0.1], [0.9], [0.0])
    one = Comparison("a", "N = {size:,}", OURS, PEER, times=10.0, quick={"size": 50})
    rows = list(compared("speed", one, quick=True, seed=0, num_pairs=1))
    assert [options["size"] for _, options in ran] == [50, 50]
    assert all(row.ok is None and row.variant == "N = 50" for row in rows)
    assert any("nothing is claimed at this size" in row.note for row in rows)


def test_a_library_that_is_not_installed_is_listed_and_no_failure(answers: Callable[..., Any]) -> None:
    ran = answers([], [], [])
    one = Comparison("a", "b", OURS, PEER._replace(needs="no_such_library"), times=10.0)
    (row,) = compared("speed", one, quick=False, seed=0, num_pairs=3)
    assert (row.quantity, row.library, row.ok, ran) == (MISSING, "Peer", None, [])
    assert row.note == "no_such_library is not installed: pip install 'latentzoo[bench]'"


def test_a_process_answers_with_its_figures() -> None:
    found = BIGRAMS.run(seed=0)
    assert found[SECONDS] > 0.0
    assert POINT not in found


def test_a_process_that_takes_too_long_or_fails_is_an_error_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^sums was stopped after 0\.01 s$"):
        BIGRAMS.run(seed=0, max_seconds=0.01)
    with pytest.raises(RuntimeError, match=r"the process of nobody ended with status 1: KeyError: 'nobody'"):
        BIGRAMS._replace(name="nobody").run(seed=0)


def test_others_are_what_is_left_of_the_machine() -> None:
    with Others() as others:
        np.ones(10).sum()
    assert others.cores is None or others.cores >= 0.0


def test_what_is_done_once_is_no_part_of_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def run(count: int) -> None:
        clock[0] += 7.0 + 0.25 * count

    monkeypatch.setattr(fresh.time, "perf_counter", lambda: clock[0])
    assert seconds_per_iteration(run, budget=3.0) == pytest.approx(0.25)
    assert seconds_per_iteration(run, budget=0.1) == pytest.approx(0.25)  # which three iterations exceed


def test_a_peak_is_seen_though_it_is_gone_again() -> None:
    with Peak() as small:
        pass
    with Peak() as large:
        np.ones(2**23).sum()  # 64 MiB
    if large.mib is None or small.mib is None:
        pytest.skip("this system does not tell")
    assert small.mib < 8.0
    assert 60.0 < large.mib < 80.0


def test_figures_of_a_side_are_those_of_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def make(seed: int, *, size: int, components: int) -> Callable[[int], object]:
        sizes.append(size)
        return lambda count: None

    monkeypatch.setattr(fresh, "seconds_per_iteration", lambda run, budget: 0.5)
    found = fresh.measured(make, 0, size=10_000, components=5)
    assert sizes == [fresh.WARM_UP, 10_000]
    assert found[SECONDS] == 0.5
    assert found[POINT] == pytest.approx(0.5e9 / 50_000)


def test_a_row_has_what_the_report_needs(answers: Callable[..., Any]) -> None:
    answers([0.1], [0.9], [0.0])
    rows = list(compared("training", Comparison("a", "b", OURS, PEER), quick=False, seed=0, num_pairs=1))
    assert all(isinstance(row, Row) and row.suite == "training" and row.entry == "a" for row in rows)
