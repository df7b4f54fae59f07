"""Bayesian networks in use: queries, files, the command line, fits that are saved, and every mistake of a user."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.cli import main
from latentzoo.inference import pictures
from latentzoo.inference.pictures import dot
from latentzoo.models.language import contract
from latentzoo.models.readers.bif import read_bif, write_bif
from latentzoo.models.readers.networks import asia

ZOO = lz.get("bayesian_network", network="asia")


@pytest.fixture(scope="module")
def data() -> Any:
    complete, _ = ZOO.simulate(seed=1, num_rows=400)
    return contract.with_holes(complete, 0.3, np.random.default_rng(0))


@pytest.fixture(scope="module")
def fit(data: Any) -> Any:
    return lz.fit(ZOO, data, progress=False)


# --- queries ----------------------------------------------------------------------------------------------------------


def test_a_query_is_a_fit_by_exact_of_one_row() -> None:
    found = ZOO.query(evidence={"asia": "yes", "dysp": "yes"})
    row = np.full((1, 8), -1)
    row[0, [0, 7]] = 0
    fit = lz.fit(ZOO, ZOO.Data(row), "exact", progress=False)
    assert fit.elbo == pytest.approx(found.log_evidence, abs=1e-14)
    said = fit.predict()
    assert [list(probs.values()) for probs in found.marginals.values()] == said["marginals"][0].tolist()
    assert found.marginals["asia"] == {"yes": 1.0, "no": 0.0}
    assert found.map["dysp"] == "yes"
    assert np.exp(found.log_evidence) == pytest.approx(0.01 * found_given_asia("dysp"), rel=1e-12)


def found_given_asia(node: str) -> float:
    return ZOO.query(evidence={"asia": "yes"}).marginals[node]["yes"]


def test_a_query_may_have_the_tables_of_a_fit(fit: Any) -> None:
    assert ZOO.query(params=fit.params).marginals != ZOO.query().marginals
    assert ZOO.query(params=fit.params, library="pyro").marginals["lung"] == pytest.approx(
        ZOO.query(params=fit.params).marginals["lung"], abs=1e-12
    )


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"asai": "yes"}, "no node of asia 'asai'; did you mean 'asia'?"),
        ({"asia": "maybe"}, "no state of asia 'maybe'; there is: yes, no"),
        ({"tub": "yes", "either": "no"}, "evidence of probability zero: node 'either' cannot be 'no' given tub=yes"),
    ],
)
def test_evidence_that_cannot_be_names_the_node(evidence: dict[str, str], words: str) -> None:
    for library in (None, "pyro", "numpyro"):
        with pytest.raises(lz.UserError) as error:
            ZOO.query(evidence=evidence, library=library)
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("numpyro", "NumPyro has axes for 24 enumerated sites"),
        ("pyro", "torch has 64 axes, one for each enumerated site"),
    ],
)
def test_networks_beyond_the_axes_of_a_library_are_refused(library: Any, words: str) -> None:
    chain = [(f"x{i}", ("0", "1"), (f"x{i - 1}",) * bool(i), np.full((2,) * (1 + bool(i)), 0.5)) for i in range(70)]
    zoo = lz.get("bayesian_network", network=lz.Network.of("chain", chain))
    assert zoo.query(evidence={"x0": "1"}).log_evidence == pytest.approx(np.log(0.5))
    with pytest.raises(lz.UserError, match=words):
        zoo.query(evidence={"x0": "1"}, library=library)


def test_verbs_of_one_model_are_no_attributes_of_others() -> None:
    assert ZOO.d_separated(a=("asia",), b=("smoke",))
    assert not ZOO.d_separated(a=("asia",), b=("smoke",), given=("dysp",))
    with pytest.raises(AttributeError, match="'earthquakes' has no attribute 'query'"):
        lz.get("earthquakes").query  # noqa: B018
    with pytest.raises(lz.UserError, match="node 'asia' is named twice"):
        ZOO.spec.graph.d_separated("asia", "smoke", given="asia")


# --- networks ---------------------------------------------------------------------------------------------------------


def coin(name: str = "coin", states: Any = ("heads", "tails"), parents: Any = (), table: Any = (0.5, 0.5)) -> Any:
    return name, states, parents, table


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "net has no node"),
        ([coin(), coin()], "there are two nodes 'coin'"),
        ([coin(name=" ")], "a node is called ' '"),
        ([coin(states=())], "node 'coin' has no states"),
        ([coin(states=("a", "a"))], "node 'coin' has the state 'a' twice"),
        ([coin(states=(0, 1))], "node 'coin' has the state 0: its states are names"),
        ([coin(parents=("dice",), table=np.eye(2))], "no node to be a parent of 'coin': 'dice'"),
        ([coin(parents=("coin",), table=np.eye(2))], "net has a cycle: coin -> coin"),
        (
            [coin("a", parents=["c"], table=np.eye(2)), coin("b", parents=["a"], table=np.eye(2)),
             coin("c", parents=["b"], table=np.eye(2))],
            "net has a cycle: ",
        ),
        ([coin(table=(0.5, 0.4))], "node 'coin': the probabilities sum to 0.9, not to 1"),
        ([coin(table=(1.5, -0.5))], "node 'coin': 1.5 is no probability"),
        ([coin(table=(0.5, np.nan))], "node 'coin': nan is no probability"),
        ([coin(table=(0.5, 0.25, 0.25))], "node 'coin' has a table of 3 numbers: its states and parents need 2"),
        ([coin(table="half")], "the table of node 'coin' is not an array of numbers"),
        (
            [coin(), coin("bet", ("win", "lose"), ("coin",), [[0.9, 0.1], [0.3, 0.6]])],
            "node 'bet' given coin=tails: the probabilities sum to 0.9, not to 1",
        ),
        (
            [*(coin(f"c{i}") for i in range(40)), coin("all", parents=[f"c{i}" for i in range(40)])],
            "node 'all' has a table of about 10^12 numbers: at most 1,048,576 are possible",
        ),
        ([coin("rows")], "node 'rows' of net is called as what all rows have is: rename it"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_names_the_node(nodes: Any, words: str) -> None:
    with pytest.raises(lz.UserError) as error:
        lz.get("bayesian_network", network=lz.Network.of("net", nodes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_sums_that_are_one_but_for_rounding_are_taken() -> None:
    table = lz.Network.of("net", [coin(table=(0.33333334, 0.66666667))]).table("coin")
    assert table.sum() == pytest.approx(1.0, abs=1e-15)
    # What is a sum of one already is not touched, so that files are read back to the bit.
    probs = np.random.default_rng(0).dirichlet(np.ones(7))
    once = lz.Network.of("net", [coin(states="abcdefg", table=probs)])
    assert lz.Network.of("net", [coin(states="abcdefg", table=once.table("coin"))]) == once


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("asai", "no network 'asai': did you mean 'asia'?"),
        (3, "network is a int: give a name, the path of a file in BIF, or a Network"),
        ({"name": "x"}, "network has not the fields of a saved one"),
    ],
)
def test_a_network_that_is_none_is_refused(network: Any, words: str) -> None:
    with pytest.raises(lz.UserError) as error:
        lz.get("bayesian_network", network=network)
    assert words in str(error.value)


# --- data and fits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (np.full((3, 8), 2), "data.states[0, 0] is 2: node 'asia' has states up to 1"),
        (np.full((3, 8), -2), "data.states[0, 0] is -2: it must be a state, counted from 0, or -1"),
        (np.zeros((3, 7), dtype=int), "data.states has shape (3, 7): give an array of shape (rows, num_nodes)"),
        (np.full((3, 8), 0.5), "data.states must hold whole numbers"),
        (np.zeros((0, 8), dtype=int), "data.states is empty: give at least one of rows"),
    ],
)
def test_states_that_cannot_be_name_row_and_node(states: np.ndarray, words: str) -> None:
    for method in ("em", "mle", "exact"):
        with pytest.raises(lz.UserError) as error:
            lz.fit(ZOO, ZOO.Data(states), method)
        assert words in str(error.value)


def test_rows_that_the_tables_rule_out_are_named(data: Any) -> None:
    states = data.states.copy()
    states[7] = [1, 0, 1, 1, 1, 1, 1, 1]  # tuberculosis, and neither
    with pytest.raises(lz.UserError, match=r"zero in row 7: node 'either' cannot be 'no' given .*tub=yes"):
        lz.fit(ZOO, ZOO.Data(states), "exact", progress=False)
    fit = lz.fit(ZOO, data, "exact", progress=False)
    held_out = fit.evaluate(ZOO.Data(states))
    assert held_out["impossible_rows"] == 1.0
    assert held_out["log_density"] == -np.inf
    assert "impossible_rows" not in fit.evaluate()


def test_a_table_without_a_row_to_tell_of_it_keeps_its_start() -> None:
    complete, _ = ZOO.simulate(seed=0, num_rows=3)  # nobody was in Asia
    given = ZOO.closed_form.exact(None, None, None, ZOO.spec)
    fit = lz.fit(ZOO, complete, "mle", init=given, progress=False)
    table = ZOO.closed_form.fitted(fit.params, ZOO.spec).table("tub")
    np.testing.assert_allclose(table[0], asia().table("tub")[0], atol=1e-12)
    assert np.isfinite(lz.fit(ZOO, complete, "em", progress=False).elbo)


def test_map_needs_a_prior_with_a_maximum(data: Any) -> None:
    with pytest.raises(lz.UserError, match=r"prior\.concentration\.asia\[0\] is 0\.5: map needs"):
        lz.fit(ZOO, data, "map", prior=ZOO.prior(data, concentration=0.5))
    assert ZOO.prior(concentration=3.0).concentration["dysp"].tolist() == np.full((2, 2, 2), 3.0).tolist()
    for wrong, words in [
        ({"asia": np.ones(2)}, r"prior\.concentration\.tub is missing"),
        ([2.0, 2.0], r"prior\.concentration is a list: give a dict of arrays"),
        ({node: np.full((9, 9), 2.0) for node in asia().nodes}, r"prior\.concentration\.asia has shape \(9, 9\)"),
        (-1.0, r"prior\.concentration\.asia\[0\] is -1: it must be positive"),
    ]:
        with pytest.raises(lz.UserError, match=words):
            ZOO.prior(data, concentration=wrong)


def test_a_fit_is_saved_with_its_network(data: Any, tmp_path: Path) -> None:
    write_bif(asia(), tmp_path / "net.bif")
    zoo = lz.get("bayesian_network", network=str(tmp_path / "net.bif"))
    fit = lz.fit(zoo, zoo.Data(data.states), "map", progress=False)
    path = fit.save(tmp_path / "fit.npz")
    (tmp_path / "net.bif").unlink()
    back = lz.load(path, data=zoo.Data(data.states))
    assert back.entry.spec == fit.entry.spec
    assert back.elbo == fit.elbo
    assert back.entry.elbo(back.params, back.data, back.prior) == pytest.approx(fit.elbo, abs=1e-10)
    np.testing.assert_array_equal(back.prior.concentration["tub"], fit.prior.concentration["tub"])
    assert lz.verify(back).ok


@pytest.mark.filterwarnings("ignore:.* has not converged")
@pytest.mark.parametrize("library", ["pyro", "numpyro"])
def test_svi_climbs_to_the_optimum_of_map(library: Any) -> None:
    zoo = lz.get("bayesian_network")
    rows = contract.with_holes(zoo.simulate(seed=1, num_rows=60)[0], 0.3, np.random.default_rng(0))
    best = lz.fit(zoo, rows, "map", tol=1e-12, progress=False)
    steps = 400 if library == "numpyro" else 150
    start = lz.fit(zoo, rows, "map", num_steps=2, tol=0.0, progress=False) if library == "pyro" else None
    svi = lz.fit(zoo, rows, "svi", library=library, init=start, num_steps=steps, tol=0.0, progress=False)
    assert best.elbo - 0.05 < svi.elbo <= best.elbo + 1e-6


def test_names_may_hold_what_paths_and_sites_do(tmp_path: Path) -> None:
    names = ("a.b", "theta", "p(c)", "tilt.d")
    nodes = [(n, ("yes", "no"), names[:i][-1:], np.full((2,) * (1 + bool(i)), 0.5)) for i, n in enumerate(names)]
    zoo = lz.get("bayesian_network", network=lz.Network.of("odd", nodes))
    data, _ = zoo.simulate(seed=0, num_rows=20, library="pyro")
    fit = lz.fit(zoo, data, "map", progress=False)
    back = lz.load(fit.save(tmp_path / "fit.npz"), data=data)
    assert back.predict()["states"].tolist() == data.states.tolist()
    assert lz.verify(back, library="pyro").ok


# --- the command line -------------------------------------------------------------------------------------------------


def run(capsys: Any, *words: str) -> tuple[int, str, str]:
    status = main(words)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_query_prints_and_writes(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bif(asia(), tmp_path / "clinic.bif")
    words = ["query", str(tmp_path / "clinic.bif"), "--evidence", "asia=yes", "--evidence", "dysp=yes"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "log evidence -5.403372373 nats" in out
    assert "tub     no                     yes 0.087751  no 0.912249" in out
    monkeypatch.setattr(dot.shutil, "which", lambda _: None)
    status, out, _ = run(capsys, *words, "-o", str(tmp_path / "out"))
    assert status == 0
    assert "network.dot: the graph in DOT: Graphviz's `dot`, which is not installed, draws it" in out
    written = json.loads((tmp_path / "out" / "query.json").read_text())
    assert written["marginals"]["tub"]["yes"] == pytest.approx(0.0877510, abs=1e-7)
    assert "dysp</B> (seen)" in (tmp_path / "out" / "network.dot").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["query"], "Missing argument 'NETWORK'"),
        (["query", "nowhere.bif"], "no network 'nowhere.bif'"),
        (["query", "asia", "--evidence", "asia"], "'asia': write NAME=VALUE"),
        (["query", "asia", "--evidence", "asia=yes", "--evidence", "asia=no"], "asia is given twice"),
        (["query", "asia", "--evidence", "asia=maybe"], "no state of asia 'maybe'"),
        (["query", "asia", "--library", "torch"], "'torch' is not one of"),
        (["qurey", "asia"], "did you mean 'query'"),
        (["d-separated", "asia", "--a", "asia"], "Missing option '--b'"),
        (["d-separated", "asia", "--a", "asia", "--b", "smok"], "did you mean 'smoke'"),
        (["fit", "bayesian_network", "--network", "asai", "-o", "out"], "did you mean 'asia'"),
    ],
)
def test_mistakes_are_one_line(capsys: Any, words: list[str], message: str) -> None:
    status, out, err = run(capsys, *words)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_d_separated_answers(capsys: Any) -> None:
    assert run(capsys, "d-separated", "asia", "--a", "asia", "--b", "smoke,bronc")[1] == "True\n"
    assert run(capsys, "d-separated", "asia", "--a", "asia", "--b", "smoke", "--given", "xray")[1] == "False\n"


def test_fit_writes_a_network_that_can_be_queried(capsys: Any, tmp_path: Path, data: Any) -> None:
    ZOO.write(data, tmp_path / "rows.csv")
    folder = tmp_path / "out"
    words = ["fit", "bayesian_network", "--network", "asia", "--data", str(tmp_path / "rows.csv")]
    status, out, err = run(capsys, *words, "--method", "em", "-o", str(folder))
    assert (status, err) == (0, "")
    assert "missing cells" in out
    fitted = read_bif(folder / "network.bif")
    kept = lz.load(folder / "fit.npz")
    for node in asia().nodes:
        np.testing.assert_allclose(fitted.table(node), np.exp(kept.params.theta.logits[node]), atol=1e-12)
    assert run(capsys, "query", str(folder / "network.bif"), "--evidence", "lung=yes")[0] == 0
    assert (folder / "network.png").exists() or (folder / "network.dot").exists()
    assert json.loads((folder / "fit.json").read_text())["spec"]["network"]["nodes"] == list(asia().nodes)


def test_pictures_are_left_out_where_marginals_are_not_known(fit: Any) -> None:
    assert set(pictures.draw(fit)) == {"elbo", "network"}
    source = pictures.draw(fit)["network"].source
    assert source.count(" -> ") == 8


def test_names_in_a_graph_are_escaped() -> None:
    many = ("x" * 90, [f"s{index}" for index in range(30)], (), np.full(30, 1 / 30))
    nodes = [('<b>&"', ("<5", "12+"), (), (0.5, 0.5)), many]
    zoo = lz.get("bayesian_network", network=lz.Network.of("odd", nodes))
    source = pictures.draw(lz.fit(zoo, zoo.simulate(num_rows=5)[0], "exact", progress=False))["network"].source
    assert "&lt;b&gt;&amp;&quot;" in source
    assert "23 more" in source
