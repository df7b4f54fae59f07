"""What theory demands of Bayesian networks, and what sums over everything say of small ones."""

import itertools

import numpy as np
import pytest
from scipy import stats

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.elimination import plan
from latentzoo.models.language import contract
from latentzoo.models.language.graph import Network
from latentzoo.models.language.ppl import LIBRARIES
from latentzoo.models.readers.bif import read_bif
from latentzoo.models.readers.networks import asia, six_nodes


def random_network(seed: int, num_nodes: int = 5, states: tuple[int, int] = (1, 3), most_parents: int = 3) -> Network:
    """Return a network with random arcs and tables, whose nodes are in no particular order."""
    rng = np.random.default_rng(seed)
    names = [f"n{index}" for index in rng.permutation(num_nodes)]
    sizes = {name: rng.integers(*states, endpoint=True) for name in names}
    nodes = []
    for place, name in enumerate(names):
        parents = tuple(rng.permutation(names[:place])[: rng.integers(0, most_parents + 1)].tolist())
        table = rng.dirichlet(np.ones(sizes[name]), [sizes[each] for each in parents])
        nodes.append((name, [f"s{state}" for state in range(sizes[name])], parents, table))
    return Network.of(f"random {seed}", [nodes[index] for index in rng.permutation(num_nodes)])


def joint(network: Network, tables) -> list[tuple[tuple[int, ...], complex]]:
    """Return every combination of states with its probability: the product of its entries in the tables."""
    found = []
    for states in itertools.product(*(range(len(each)) for each in network.states)):
        at = dict(zip(network.nodes, states, strict=True))
        entries = [tables[node][tuple(at[each] for each in network.family(node))] for node in network.nodes]
        found.append((states, np.prod(entries)))
    return found


def agrees(states, evidence) -> bool:
    return all(seen in (-1, state) for state, seen in zip(states, evidence, strict=True))


def posterior(network: Network, tables, evidence) -> tuple[float, list[np.ndarray], tuple[int, ...]]:
    """Return p(evidence), the marginals of each node given it, and the most probable states."""
    possible = [(states, prob) for states, prob in joint(network, tables) if agrees(states, evidence)]
    total = sum(prob for _, prob in possible)
    marginals = [np.zeros(len(each)) for each in network.states]
    for states, prob in possible:
        for place, state in enumerate(states):
            marginals[place][state] += prob / total
    return total, marginals, max(possible, key=lambda each: each[1])[0]


def tables_of(network: Network) -> dict[str, np.ndarray]:
    return {node: network.table(node) for node in network.nodes}


def random_evidence(network: Network, seed: int, num_rows: int) -> np.ndarray:
    """Return rows drawn from the network, with a random part of the states missing, from none to all."""
    data, _ = lz.get("bayesian_network", network=network).simulate(seed=seed, num_rows=num_rows)
    rng = np.random.default_rng(seed)
    return np.where(rng.random(data.states.shape) < rng.random((num_rows, 1)), -1, data.states)


NETWORKS = [asia(), six_nodes(), *(random_network(seed) for seed in range(6)), random_network(7, num_nodes=1)]
networks = pytest.mark.parametrize("network", NETWORKS, ids=str)


# --- exact inference --------------------------------------------------------------------------------------------------


@networks
def test_rows_are_what_sums_over_everything_say(network: Network) -> None:
    zoo = lz.get("bayesian_network", network=network)
    states = random_evidence(network, seed=1, num_rows=12)
    params = zoo.closed_form.exact(None, None, None, zoo.spec)
    found = zoo.closed_form.predict(params, zoo.Data(states), zoo.Prior(), zoo.spec)
    for row, evidence in enumerate(states):
        total, marginals, best = posterior(network, tables_of(network), evidence)
        np.testing.assert_allclose(found["log_evidence"][row], np.log(total), rtol=0, atol=1e-12)
        for place, expected in enumerate(marginals):
            np.testing.assert_allclose(found["marginals"][row, place, : len(expected)], expected, atol=1e-12)
            assert not found["marginals"][row, place, len(expected) :].any()
        chosen = dict(zip(network.nodes, found["states"][row], strict=True))
        of_chosen = np.prod([network.table(n)[tuple(chosen[p] for p in network.family(n))] for n in network.nodes])
        of_best = dict(joint(network, tables_of(network)))[best]
        assert agrees(found["states"][row], evidence)
        np.testing.assert_allclose(of_chosen, of_best, rtol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("network", [asia(), NETWORKS[3], NETWORKS[4]], ids=str)
def test_a_query_is_the_same_by_hand_and_by_enumeration(network: Network, library) -> None:
    zoo = lz.get("bayesian_network", network=network)
    for seed in (1, 2):
        row = random_evidence(network, seed=seed, num_rows=1)[0]
        evidence = {n: network.states_of(n)[s] for n, s in zip(network.nodes, row, strict=True) if s >= 0}
        hand, auto = zoo.query(evidence=evidence), zoo.query(evidence=evidence, library=library)
        assert auto.log_evidence == pytest.approx(hand.log_evidence, rel=0, abs=1e-10)
        for node, probs in hand.marginals.items():
            assert auto.marginals[node] == pytest.approx(probs, rel=0, abs=1e-10)
        assert auto.map == hand.map


@networks
def test_the_gradient_is_that_of_the_sum_over_everything(network: Network) -> None:
    # An analytic function moved by i h has its derivative in the imaginary part, to rounding.
    zoo = lz.get("bayesian_network", network=network)
    states = random_evidence(network, seed=2, num_rows=4)
    rng = np.random.default_rng(0)
    theta = zoo.Theta({node: rng.normal(size=network.shape(node)) for node in network.nodes})
    params = lz.Params(theta, zoo.Phi())

    def log_likelihood(logits) -> complex:
        exps = {node: np.exp(value) for node, value in logits.items()}
        tables = {node: each / each.sum(-1, keepdims=True) for node, each in exps.items()}
        every = joint(network, tables)
        return sum(np.log(sum(prob for at, prob in every if agrees(at, row))) for row in states)

    form = zoo.closed_form
    stats = form.e_step(params, zoo.Data(states), zoo.Prior(), zoo.spec)
    hand = form.elbo_gradient(stats, params, zoo.Prior(), zoo.spec).theta.logits
    assert float(stats.bound) == pytest.approx(log_likelihood(theta.logits).real, abs=1e-12)
    for node in network.nodes[:4]:
        for at in np.ndindex(*network.shape(node)):
            moved = {name: value.astype(complex) for name, value in theta.logits.items()}
            moved[node][at] += 1e-30j
            assert hand[node][at] == pytest.approx(log_likelihood(moved).imag * 1e30, abs=1e-11)


@pytest.mark.parametrize("library", LIBRARIES)
def test_asia_with_its_zeros_is_proved_with_missing_cells(library) -> None:
    report = lz.verify("bayesian_network", network="asia", library=library, num_points=1, progress=False)
    assert report.ok, str(report)
    assert any("missing cells" in row.variant for row in report.rows)
    assert {row.way for row in report.rows} == {"enumeration"}


def test_facts_of_asia(data_folder) -> None:
    # ../shared/data: priors that anyone can recompute.
    found = lz.get("bayesian_network", network=str(data_folder / "asia.bif")).query(evidence={}).marginals
    known = {"tub": 0.0104, "lung": 0.055, "bronc": 0.45, "either": 0.064828, "xray": 0.11029004, "dysp": 0.4359706}
    assert {node: found[node]["yes"] for node in known} == pytest.approx(known, rel=0, abs=1e-12)


def test_the_network_that_is_built_in_is_the_file(data_folder) -> None:
    read = read_bif(data_folder / "asia.bif")
    assert read.nodes == asia().nodes
    for node in read.nodes:
        places = [read.family(node).index(each) for each in asia().family(node)]
        np.testing.assert_array_equal(read.table(node).transpose(places), asia().table(node))


def test_evidence_piece_by_piece_is_evidence_together() -> None:
    # p(a, b) = p(a) p(b | a), on a network too large to sum over.
    network = like_alarm(seed=4)
    zoo = lz.get("bayesian_network", network=network)
    row = zoo.simulate(seed=1, num_rows=1)[0].states[0]
    evidence, total = {}, 0.0
    for node in network.order[::5]:
        state = network.states_of(node)[row[network.place[node]]]
        total += np.log(zoo.query(evidence=evidence).marginals[node][state])
        evidence[node] = state
    assert zoo.query(evidence=evidence).log_evidence == pytest.approx(total, abs=1e-10)


def like_alarm(seed: int, num_nodes: int = 37) -> Network:
    """Return a network of the size of ALARM (Beinlich et al., 1989): 37 nodes of 2 to 4 states, at most 4 parents."""
    rng = np.random.default_rng(seed)
    nodes, sizes = [], rng.integers(2, 5, num_nodes)
    for place in range(num_nodes):
        near = np.arange(max(0, place - 6), place)
        parents = rng.permutation(near)[: rng.choice(5, p=[0.1, 0.4, 0.3, 0.1, 0.1])].tolist()
        table = rng.dirichlet(np.ones(sizes[place]), [sizes[each] for each in parents])
        nodes.append((f"x{place}", [str(s) for s in range(sizes[place])], [f"x{each}" for each in parents], table))
    return Network.of("like ALARM", nodes)


def test_a_third_party_agrees_on_larger_networks() -> None:
    models = pytest.importorskip("pgmpy.models", exc_type=ImportError)
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination

    network = like_alarm(seed=0)
    kind = getattr(models, "DiscreteBayesianNetwork", None) or models.BayesianNetwork  # before pgmpy 1
    peer = kind([(p, n) for n in network.nodes for p in network.parents_of(n)])
    for node in network.nodes:
        sizes = network.shape(node)
        values = np.moveaxis(network.table(node), -1, 0).reshape(sizes[-1], -1)
        names = {each: list(network.states_of(each)) for each in network.family(node)}
        peer.add_node(node)
        peer.add_cpds(TabularCPD(node, sizes[-1], values, list(network.parents_of(node)), sizes[:-1], names))
    evidence = {"x30": "0", "x12": "1", "x3": "0"}
    hand = lz.get("bayesian_network", network=network).query(evidence=evidence)
    for node in ("x0", "x20", "x36"):
        found = VariableElimination(peer).query([node], evidence=evidence, show_progress=False)
        expected = dict(zip(found.state_names[node], found.values, strict=True))
        assert hand.marginals[node] == pytest.approx(expected, rel=0, abs=1e-10)


# --- elimination ------------------------------------------------------------------------------------------------------


def grid(size: int) -> Network:
    """Return binary nodes on a grid, each below and right of its parents: as wide as its side."""
    nodes = []
    for row, column in itertools.product(range(size), repeat=2):
        parents = [f"{r},{c}" for r, c in ((row - 1, column), (row, column - 1)) if r >= 0 and c >= 0]
        nodes.append((f"{row},{column}", ("off", "on"), parents, np.full((2,) * (len(parents) + 1), 0.5)))
    return Network.of("grid", nodes)


def test_the_width_is_checked_before_tables_are_built() -> None:
    zoo = lz.get("bayesian_network", network=grid(40))
    with pytest.raises(
        lz.UserError, match=r"grid is too wide for exact inference: its tables would hold more than .* that of node"
    ):
        zoo.query(evidence={})
    # Where a column is known, the grid falls apart: what is left is as narrow as the query needs.
    narrow = lz.get("bayesian_network", network=grid(10))
    cut = {f"{row},5": "on" for row in range(10)}
    assert narrow.query(evidence=cut).log_evidence == pytest.approx(10 * np.log(0.5), abs=1e-10)
    assert plan(grid(10), frozenset(cut)).size < plan(grid(10), frozenset()).size / 10


def test_min_fill_leaves_trees_and_chains_as_narrow_as_they_are() -> None:
    for network in (six_nodes(), grid(1)):
        assert max(len(step.scope) for step in plan(network, frozenset()).steps) == min(2, len(network.nodes))
    star = Network.of(
        "star", [("hub", "ab", (), [0.5, 0.5]), *((f"{i}", "ab", ("hub",), np.full((2, 2), 0.5)) for i in range(2000))]
    )
    assert max(len(step.scope) for step in plan(star, frozenset()).steps) == 2


def test_complete_rows_need_no_elimination_however_wide_the_network() -> None:
    zoo = lz.get("bayesian_network", network=grid(40))
    data, _ = zoo.simulate(seed=0, num_rows=50, library="pyro")
    fit = lz.fit(zoo, data, "mle", progress=False)
    assert np.isfinite(fit.elbo)
    assert "too wide" in fit.describe()
    with pytest.raises(lz.UserError, match="too wide"):
        lz.fit(zoo, zoo.Data(np.full_like(data.states, -1)), "em", progress=False)


@pytest.mark.parametrize("seed", range(6))
def test_a_node_is_unrelated_to_what_the_graph_cuts_off(seed: int) -> None:
    # With random tables, d-separation and independence are the same, with probability one (Meek, 1995).
    network = random_network(seed, states=(2, 3))
    for a, b in itertools.combinations(network.nodes, 2):
        others = [node for node in network.nodes if node not in (a, b)]
        for size in range(3):
            for given in itertools.combinations(others, size):
                assert network.d_separated(a, b, given) == _independent(network, a, b, given), (a, b, given)


def _independent(network: Network, a: str, b: str, given: tuple[str, ...]) -> bool:
    """Return whether p(a, b | given) = p(a | given) p(b | given), by sums over everything."""
    wanted = [network.place[each] for each in (a, b, *given)]
    table = np.zeros([len(network.states[place]) for place in wanted])
    for states, prob in joint(network, tables_of(network)):
        table[tuple(states[place] for place in wanted)] += prob.real
    product = table.sum(0, keepdims=True) * table.sum(1, keepdims=True)
    return bool(np.abs(table * table.sum((0, 1)) - product).max() < 1e-13)


# --- learning ---------------------------------------------------------------------------------------------------------


def with_holes(zoo, seed: int, num_rows: int, part: float):
    data, _ = zoo.simulate(seed=seed, num_rows=num_rows)
    return contract.with_holes(data, part, np.random.default_rng(seed))


def test_em_recovers_the_tables_within_sampling_error() -> None:
    zoo = lz.get("bayesian_network", network="asia")
    data = with_holes(zoo, seed=5, num_rows=20_000, part=1 / 3)
    fit = lz.fit(zoo, data, "em", tol=1e-12, progress=False)
    assert fit.converged
    assert (np.diff(fit.elbo_trace) >= -1e-9).all()
    own = lz.fit(zoo, data, "exact", progress=False).elbo
    assert own < fit.elbo < own + 40.0  # 18 free numbers: twice the difference is about chi-square of 18
    fitted = zoo.closed_form.fitted(fit.params, zoo.spec)
    for node in asia().nodes:
        family = data.states[:, [asia().place[each] for each in asia().family(node)]]
        for at in np.ndindex(*asia().shape(node)[:-1]):
            # EM knows at least as much as the rows that show the whole family.
            seen = int(((family >= 0).all(1) & (family[:, :-1] == at).all(1)).sum())
            truth = asia().table(node)[at]
            if seen >= 30:
                # Bernstein's inequality, at 8 chances in a million: five standard errors, and what rare states need.
                error = 5.0 * np.sqrt(truth * (1.0 - truth) / seen) + 25.0 / 3.0 / seen
                assert (np.abs(fitted.table(node)[at] - truth) <= error).all(), (node, at, seen)


@networks
@pytest.mark.parametrize("method", ["em", "map"])
def test_updates_never_lower_what_they_climb_and_end_where_its_gradient_is_zero(network: Network, method) -> None:
    zoo = lz.get("bayesian_network", network=network)
    data = with_holes(zoo, seed=1, num_rows=60, part=0.4)
    fit = lz.fit(zoo, data, method, tol=1e-15, num_steps=20_000, progress=False)
    assert (np.diff(fit.elbo_trace) >= -1e-10 * abs(fit.elbo)).all()
    stats = zoo.closed_form.e_step(fit.params, data, fit.prior, zoo.spec)
    gradient = zoo.closed_form.elbo_gradient(stats, fit.params, fit.prior, zoo.spec)
    assert max(np.abs(leaf).max() for leaf in contract.leaves(gradient).values()) < 1e-4


def test_the_posterior_density_has_the_priors_of_scipy() -> None:
    zoo = lz.get("bayesian_network", network=random_network(11))
    network = zoo.spec.graph
    data = with_holes(zoo, seed=1, num_rows=10, part=0.2)
    rng = np.random.default_rng(0)
    concentration = {node: rng.uniform(1.0, 4.0, network.shape(node)) for node in network.nodes}
    prior = zoo.prior(data, concentration=concentration)
    params = zoo.init(data, prior, 0, "map")
    tables = {node: np.exp(logits) for node, logits in params.theta.logits.items()}
    expected = sum(
        stats.dirichlet(concentration[node][at]).logpdf(tables[node][at] / tables[node][at].sum())
        for node in network.nodes
        if network.shape(node)[-1] > 1
        for at in np.ndindex(*network.shape(node)[:-1])
    )
    found = zoo.elbo(params, data, prior) - zoo.elbo(params, data, zoo.Prior())
    assert found == pytest.approx(expected, abs=1e-10)


@networks
def test_halves_add_up_and_the_order_of_rows_and_nodes_is_no_matter(network: Network) -> None:
    zoo = lz.get("bayesian_network", network=network)
    data = with_holes(zoo, seed=3, num_rows=40, part=0.3)
    form, params = zoo.closed_form, zoo.init(data)
    whole = form.e_step(params, data, zoo.Prior(), zoo.spec)
    parts = accumulate.in_chunks(form.e_step, 17)(params, data, zoo.Prior(), zoo.spec)
    shuffled = form.e_step(params, zoo.Data(data.states[::-1]), zoo.Prior(), zoo.spec)
    for other in (parts, shuffled):
        for name, leaf in contract.leaves(whole).items():
            np.testing.assert_allclose(contract.leaves(other)[name], leaf, rtol=1e-11, atol=1e-11)
    # A network whose nodes are listed the other way round, with data to match, is the same.
    turned = Network.of(
        "turned", [(n, network.states_of(n), network.parents_of(n), network.table(n)) for n in network.nodes[::-1]]
    )
    other = lz.get("bayesian_network", network=turned)
    bound = other.elbo(params, other.Data(data.states[:, ::-1]), other.Prior())
    assert bound == pytest.approx(float(whole.bound), abs=1e-10)


def test_sums_in_jax_are_those_of_numpy() -> None:
    import jax

    zoo = lz.get("bayesian_network", network="asia")
    data = with_holes(zoo, seed=3, num_rows=30, part=0.3)
    params, form = zoo.init(data), zoo.closed_form
    expected = contract.leaves(form.e_step(params, data, zoo.Prior(), zoo.spec))
    with jax.enable_x64(True):
        moved = contract.map_leaves(lambda _, leaf: jax.numpy.asarray(leaf), params)
        states = zoo.Data(jax.numpy.asarray(data.states))
        found = jax.jit(lambda p, d: form.e_step(p, d, zoo.Prior(), zoo.spec))(moved, states)
        for name, leaf in contract.leaves(found).items():
            np.testing.assert_allclose(np.asarray(leaf), expected[name], rtol=1e-12, atol=1e-12)


def test_complete_data_give_the_shares_of_the_counts() -> None:
    zoo = lz.get("bayesian_network")
    data, _ = zoo.simulate(seed=2, num_rows=300)
    tables = zoo.closed_form.fitted(lz.fit(zoo, data, "mle", progress=False).params, zoo.spec)
    c, d = (data.states[:, zoo.spec.graph.place[node]] for node in "cd")
    for state in range(3):
        expected = np.bincount(d[c == state], minlength=2) / (c == state).sum()
        np.testing.assert_allclose(tables.table("d")[state], expected, atol=1e-14)
    em = lz.fit(zoo, data, "em", progress=False)
    assert em.num_steps == 3  # one update, and two looks that nothing moves any more
    np.testing.assert_allclose(em.elbo, lz.fit(zoo, data, "mle", progress=False).elbo, rtol=1e-12)


def test_a_node_that_is_never_seen_is_learnt_from_what_it_explains() -> None:
    # One hidden node with three children is identified up to the names of its states.
    tables = {
        "h": [0.3, 0.7],
        "a": [[0.9, 0.1], [0.2, 0.8]],
        "b": [[0.85, 0.15], [0.1, 0.9]],
        "c": [[0.8, 0.2], [0.3, 0.7]],
    }
    nodes = [(n, ("0", "1"), () if n == "h" else ("h",), tables[n]) for n in "habc"]
    zoo = lz.get("bayesian_network", network=Network.of("naive", nodes))
    data, _ = zoo.simulate(seed=0, num_rows=50_000)
    hidden = zoo.Data(np.where(np.arange(4) == 0, -1, data.states))
    fit = lz.fit(zoo, hidden, "em", tol=1e-12, num_steps=5000, progress=False)
    fitted = zoo.closed_form.fitted(fit.params, zoo.spec)
    flip = slice(None, None, -1 if fitted.table("h")[0] > 0.5 else 1)
    np.testing.assert_allclose(fitted.table("h")[flip], tables["h"], atol=0.03)
    for node in "abc":
        np.testing.assert_allclose(fitted.table(node)[flip], tables[node], atol=0.03)


@networks
def test_simulated_rows_have_the_probabilities_of_the_tables(network: Network) -> None:
    zoo = lz.get("bayesian_network", network=network)
    for library in LIBRARIES:
        data, _ = zoo.simulate(seed=9, num_rows=4000, library=library)
        # By the chance of each combination of the first nodes: 5 standard errors of a share.
        first = data.states[:, :3]
        for at in itertools.product(*(range(len(each)) for each in network.states[:3])):
            prob = sum(p.real for states, p in joint(network, tables_of(network)) if states[:3] == at)
            share = (first == at).all(1).mean()
            assert abs(share - prob) <= 5.0 * np.sqrt(prob * (1.0 - prob) / 4000) + 1e-12
