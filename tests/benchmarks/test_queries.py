"""The suite of queries: its claims hold, wrong answers fail, and a peer that cannot answer is said to be absent."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentzoo.benchmarks import queries
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context

ROW = partial(Row, "queries", entry="bayesian_network")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(queries, "NUM_ROWS", 500)
    monkeypatch.setattr(queries, "_in_fresh_process", queries._measure)
    return Context(tmp_path, True, 0, {})


@pytest.fixture(scope="module")
def asked() -> dict[str, queries.Question]:
    return queries.questions(0)


def measured(context: Context, wanted: set[str]) -> Iterator[Row]:
    for unit in queries.units(context):
        if unit.name in wanted:
            yield from unit.work()


def test_claims_hold_and_a_section_has_them(context: Context) -> None:
    wanted = {"asia by hand", "asia by pyro", "like ALARM by hand", "like ALARM by pyro", "EM"}
    rows = list(measured(context, wanted))
    claims = [row for row in rows if row.ok is not None]
    assert len(claims) == 2 * (1 + 3) + 3
    assert all(row.ok for row in claims), claims
    page = queries.section(rows, context.folder)
    assert "| like ALARM | 37 nodes, 46 arcs | x" in page
    assert "| like ALARM | pyro |" in page
    assert "| steps of EM |" in page
    assert "NO" not in page


@pytest.mark.slow
def test_numpyro_agrees() -> None:
    rows = list(queries._by_library(queries.questions(0)["asia"], "numpyro"))
    assert [row.ok for row in rows] == [True, True, True, None]


def test_a_fresh_process_measures_both_times() -> None:
    first, later = queries._in_fresh_process("six_nodes", 0, 3)
    assert 0.0 < later < first  # the first makes the plan, and imports what it needs


def test_the_third_party_agrees(asked: dict[str, queries.Question]) -> None:
    pytest.importorskip("pgmpy.models", exc_type=ImportError)
    for question in asked.values():
        assert [row.ok for row in queries._by_pgmpy(question)] == [True, True, None]


def test_who_cannot_answer_claims_nothing(asked: dict[str, queries.Question], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "find_spec", lambda name: None)
    question = asked["like INSURANCE"]
    rows = [*queries._by_pgmpy(question), *queries._by_library(question, "numpyro")]
    assert [(row.ok, row.value) for row in rows] == [(None, None)] * 2
    page = queries.section(rows, Path())
    assert "pgmpy is not installed" in page
    assert "24 enumerated sites" in page


def test_a_wrong_answer_fails_where_it_is_wrong(asked: dict[str, queries.Question]) -> None:
    question = asked["asia"]
    right = question.zoo.query(evidence=question.evidence)

    def failed(log_evidence: float = right.log_evidence, marginals: Any = right.marginals, best: Any = right.map):
        rows = queries._compared(ROW, right, log_evidence, marginals, best)
        return [row.quantity for row in rows if not row.ok]

    shifted = {**right.marginals, "tub": {"yes": right.marginals["tub"]["yes"] + 1e-9, "no": 0.5}}
    assert failed() == []
    assert failed(log_evidence=right.log_evidence + 1e-9) == [queries.EVIDENCE]
    assert failed(log_evidence=math.nan) == [queries.EVIDENCE]
    assert failed(marginals=shifted) == [queries.MARGINAL]
    assert failed(marginals={**right.marginals, "tub": {"yes": math.nan, "no": 1.0}}) == [queries.MARGINAL]
    assert failed(best={**right.map, "smoke": {"yes": "no", "no": "yes"}[right.map["smoke"]]}) == [queries.BEST]


def test_other_states_that_are_as_probable_do_not_fail(asked: dict[str, queries.Question]) -> None:
    network = queries.Network.of("coins", [("a", "ht", (), [0.5, 0.5]), ("b", "ht", ("a",), [[0.5, 0.5]] * 2)])
    zoo = queries.Question(network, {"a": "h"}).zoo
    found = zoo.query(evidence={"a": "h"})
    other = replace(found, map={"a": "h", "b": {"h": "t", "t": "h"}[found.map["b"]]})
    rows = list(queries._compared(ROW, found, found.log_evidence, found.marginals, other.map))
    assert all(row.ok for row in rows)
    assert rows[-1].value == pytest.approx(math.log(0.25))
    assert "as probable" in rows[-1].note


def test_a_slow_query_and_a_falling_likelihood_fail(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_in_fresh_process", lambda *_: (0.1, 0.9))
    assert [row.ok for row in measured(context, {"six_nodes by hand"})] == [None, None, None, False]
    fits = {
        "em": SimpleNamespace(elbo=-10.0, elbo_trace=np.array([-12.0, -10.0, -10.1]), num_steps=2, seconds=1.0),
        "mle": SimpleNamespace(elbo=-9.9),
    }
    fits["em"].converged, fits["em"].reason = False, ""
    monkeypatch.setattr(queries, "_fit", lambda zoo, data, method: fits[method])
    rows = {row.quantity: row for row in measured(context, {"EM"})}
    assert [row.ok for row in rows.values()] == [False, None, False, False]
    assert rows["largest fall of the log likelihood"].error == pytest.approx(0.01)


@pytest.mark.parametrize("name", list(queries.SIZES))
def test_random_networks_have_the_size_that_they_are_called_after(name: str) -> None:
    size = queries.SIZES[name]
    networks = [queries.questions(seed)[name].network for seed in (0, 1, 2)]
    for network in networks:
        parents = [len(network.parents_of(node)) for node in network.nodes]
        assert (len(parents), max(parents) <= size.parents, sum(parents)) == (size.nodes, True, size.arcs)
        assert {len(states) for states in network.states} == {2, 3, 4}
    assert networks[0] == queries.questions(0)[name].network
    assert networks[0] != networks[1]


@pytest.mark.parametrize("seed", range(10))
def test_evidence_is_possible_and_the_tables_stay_small(seed: int) -> None:
    for question in queries.questions(seed).values():
        assert len(question.evidence) == queries.NUM_SEEN
        assert math.isfinite(question.zoo.query(evidence=question.evidence).log_evidence)
        assert queries.plan(question.network, frozenset()).size < 100_000
