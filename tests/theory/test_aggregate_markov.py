"""The closed form of the classes between words against what is known without it: all classes, a peer, theory."""

import itertools
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.sparse import coo_array
from scipy.special import gammaln, logsumexp
from torch.distributions import Dirichlet, kl_divergence

import latentzoo as lz
from latentzoo.inference import accumulate, language
from latentzoo.inference.closed_form import aggregate_markov as closed_form
from latentzoo.models.language.contract import Params, leaves, map_leaves, take_rows

METHODS = ("em", "map", "cavi")
every_method = pytest.mark.parametrize("method", METHODS)


class Problem(NamedTuple):
    """A model with data, a prior that is not symmetric in anything, and parameters far from any optimum."""

    zoo: Any
    data: Any
    prior: Any
    params: Params


def bigrams(zoo: Any, walk: np.ndarray, size: int) -> Any:
    """The counts of one line of words."""
    pairs = Counter(zip([size, *walk[:-1].tolist()], walk.tolist(), strict=True))
    rows = np.array([(*pair, count) for pair, count in sorted(pairs.items())])
    return zoo.Data(rows[:, 0], rows[:, 1], rows[:, 2].astype(float))


def problem(
    method: str, num_classes: int = 3, size: int = 5, length: int = 40, seed: int = 0, free: bool = False
) -> Problem:
    """Draw a problem; free: its q(class) is free, not at the optimum."""
    rng = np.random.default_rng(seed)
    zoo = lz.get("aggregate_markov", num_classes=num_classes)
    data = bigrams(zoo, np.append(rng.integers(size, size=length - 1), size - 1), size)
    shapes = (size + 1, num_classes), (num_classes, size)
    prior = zoo.Prior(*(rng.uniform(1.2, 3.0, shape) for shape in shapes))
    logits = [rng.normal(0.0, 1.0, shape) for shape in shapes]
    state = rng.normal(0.0, 1.5, (len(data.word), num_classes)) if free else None
    if method == "cavi":
        return Problem(zoo, data, prior, Params(phi=zoo.Phi(*logits, state)))
    return Problem(zoo, data, zoo.prior_for(method, prior), Params(zoo.Theta(*logits), zoo.Phi(state_logits=state)))


def e_step(of: Problem) -> closed_form.Stats:
    return closed_form.e_step(of.params, of.data, of.prior, of.zoo.spec)


def elbo(of: Problem) -> Any:
    return closed_form.elbo(e_step(of), of.params, of.prior, of.zoo.spec)


def update(of: Problem) -> Problem:
    return of._replace(params=closed_form.m_step(e_step(of), of.params, of.prior, of.zoo.spec))


def free_at_optimum(of: Problem) -> Problem:
    return of._replace(params=closed_form.local_optimum(of.params, of.data, of.prior, of.zoo.spec))


def gradient(of: Problem) -> Params:
    return closed_form.elbo_gradient(e_step(of), of.params, of.prior, of.zoo.spec)


def softmax(x: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(np.asarray(x)), -1).numpy()


# --- all class sequences of a short text ------------------------------------------------------------------------------

WALK, NUM_WORDS = np.array([1, 0, 1, 2, 1, 0, 2]), 3


class Short(NamedTuple):
    """A text so short that the classes of its words can be listed, and what it is as counts."""

    of: Problem
    context: np.ndarray
    sequences: np.ndarray
    row: np.ndarray  # of each token among the bigrams


def short(method: str, num_classes: int = 2, seed: int = 0, free: bool = False) -> Short:
    of = problem(method, num_classes, NUM_WORDS, seed=seed)
    data = bigrams(of.zoo, WALK, NUM_WORDS)
    assert data.count.max() == 2.0  # or counts would play no part
    if free:
        logits = np.random.default_rng(seed).normal(0.0, 1.5, (len(data.word), num_classes))
        of = of._replace(params=of.params._replace(phi=of.params.phi._replace(state_logits=logits)))
    context = np.array([NUM_WORDS, *WALK[:-1]])
    row = np.array(
        [np.flatnonzero((data.context == x) & (data.word == y))[0] for x, y in zip(context, WALK, strict=True)]
    )
    return Short(of._replace(data=data), context, np.array([*itertools.product(range(num_classes), repeat=7)]), row)


def log_joint_at_points(text: Short) -> np.ndarray:
    """log p(words, classes) of each sequence of classes, by the chain itself."""
    class_probs, word_probs = map(softmax, text.of.params.theta)
    steps = class_probs[text.context, text.sequences] * word_probs[text.sequences, WALK]
    return np.log(steps).sum(1)


def log_joint_of_urns(text: Short) -> np.ndarray:
    """log p(words, classes) with the tables integrated out: Polya's urns, a token after another."""
    total = []
    for sequence in text.sequences:
        urns = [np.array(urn) for urn in text.of.prior]
        log_p = 0.0
        for x, z, y in zip(text.context, sequence, WALK, strict=True):
            log_p += np.log(urns[0][x, z] / urns[0][x].sum()) + np.log(urns[1][z, y] / urns[1][z].sum())
            urns[0][x, z] += 1.0
            urns[1][z, y] += 1.0
        total.append(log_p)
    return np.array(total)


def log_q(text: Short, logits: np.ndarray) -> np.ndarray:
    """log q of each sequence of classes."""
    each = np.log(softmax(logits))[text.row]
    return each[np.arange(len(WALK)), text.sequences].sum(1)


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_the_likelihood_is_the_sum_over_all_class_sequences(num_classes: int) -> None:
    text = short("em", num_classes)
    assert elbo(text.of) == pytest.approx(logsumexp(log_joint_at_points(text)), rel=1e-13)
    latents = dict(zip(("class_probs", "word_probs"), map(softmax, text.of.params.theta), strict=True))
    for rows in (
        closed_form.log_likelihood(latents, text.of.params, text.of.data, text.of.prior, text.of.zoo.spec),
        closed_form.log_predictive(text.of.params, text.of.data, text.of.prior, text.of.zoo.spec),
    ):
        assert rows.sum() == pytest.approx(elbo(text.of), rel=1e-13)


def test_complete_data_have_the_likelihood_of_their_sequence() -> None:
    text = short("em", 3)
    expected = log_joint_at_points(text)
    for sequence, log_p in zip(text.sequences[::97], expected[::97], strict=True):
        data = text.of.zoo.Data(text.context, WALK, np.ones(len(WALK)), state=sequence)
        assert elbo(text.of._replace(data=data)) == pytest.approx(log_p, rel=1e-13)
    assert elbo(text.of) == pytest.approx(logsumexp(expected), rel=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_free_energy_and_kl_are_the_log_likelihood(seed: int) -> None:
    """log p(x) - F(theta, q) = KL(q || posterior), for any q."""
    text = short("em", 3, seed, free=True)
    log_joint = log_joint_at_points(text)
    q = log_q(text, text.of.params.phi.state_logits)
    kl = np.exp(q) @ (q - (log_joint - logsumexp(log_joint)))
    assert kl > 0.1
    assert elbo(text.of) + kl == pytest.approx(logsumexp(log_joint), rel=1e-13)


def test_the_free_energy_touches_the_likelihood_at_its_own_parameters_only() -> None:
    """After the E step F(theta, q_t) = log p at theta_t; after the M step it is above that, and below the new log p."""
    text = short("em", 2)
    tight = free_at_optimum(text.of)
    assert elbo(tight) == pytest.approx(elbo(text.of), rel=1e-14)
    moved = update(text.of)
    old_q = moved._replace(params=moved.params._replace(phi=tight.params.phi))
    log_joint = log_joint_at_points(text._replace(of=moved))
    q = log_q(text, tight.params.phi.state_logits)
    kl = np.exp(q) @ (q - (log_joint - logsumexp(log_joint)))
    assert elbo(text.of) + 1e-3 < elbo(old_q) < elbo(moved) - 1e-3
    assert elbo(moved) - elbo(old_q) == pytest.approx(kl, rel=1e-10)


def test_map_adds_the_density_of_the_tables() -> None:
    text = short("map", 3)
    log_prior = sum(
        stats.dirichlet.logpdf(row, concentration)
        for table, prior in zip(text.of.params.theta, text.of.prior, strict=True)
        for row, concentration in zip(softmax(table), prior, strict=True)
    )
    assert elbo(text.of) == pytest.approx(logsumexp(log_joint_at_points(text)) + log_prior, rel=1e-13)


@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
@pytest.mark.parametrize("seed", range(2))
def test_elbo_plus_kl_is_the_evidence(seed: int, free: bool) -> None:
    """KL(q || the exact posterior) by the chain rule: of the classes, then of the tables given them."""
    text = short("cavi", 2, seed, free)
    phi = (text.of if free else free_at_optimum(text.of)).params.phi
    log_joint = log_joint_of_urns(text)
    counts = [np.array(table) + np.zeros((len(text.sequences), *table.shape)) for table in text.of.prior]
    for index, sequence in enumerate(text.sequences):
        np.add.at(counts[0][index], (text.context, sequence), 1.0)
        np.add.at(counts[1][index], (sequence, WALK), 1.0)
    kl_tables = sum(
        kl_divergence(Dirichlet(torch.from_numpy(np.exp(q))), Dirichlet(torch.from_numpy(posterior))).sum(-1).numpy()
        for q, posterior in zip(phi[:2], counts, strict=True)
    )
    q = log_q(text, phi.state_logits)
    kl = np.exp(q) @ (q - (log_joint - logsumexp(log_joint)) + kl_tables)
    assert kl > 0.1
    assert elbo(text.of) + kl == pytest.approx(logsumexp(log_joint), rel=1e-12)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_prediction_of_a_token_is_exact(num_classes: int) -> None:
    """At q = prior the prediction of one token is its evidence, by the urns."""
    text = short("cavi", num_classes)
    prior = text.of.prior
    params = Params(phi=text.of.zoo.Phi(*map(np.log, prior)))
    token = text.of.zoo.Data(np.array([0]), np.array([2]), np.ones(1))
    found = closed_form.log_predictive(params, token, prior, text.of.zoo.spec)
    first = prior.class_concentration[0] / prior.class_concentration[0].sum()
    second = prior.word_concentration[:, 2] / prior.word_concentration.sum(1)
    assert found[0] == pytest.approx(np.log(sum(a * b for a, b in zip(first, second, strict=True))), rel=1e-14)


# --- the gradient and the update --------------------------------------------------------------------------------------


def in_jax(tree: Any) -> Any:
    return map_leaves(lambda _, leaf: jnp.asarray(leaf), tree)


@every_method
@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_the_gradient_is_that_of_the_bound(method: str, free: bool) -> None:
    """At the optimum of q(class) JAX gives the total derivative: by the envelope theorem, the partial one."""
    of = problem(method, free=free)
    with jax.enable_x64(True):
        data, prior = in_jax(of.data), in_jax(of.prior)
        function = jax.value_and_grad(lambda params: elbo(Problem(of.zoo, data, prior, params)))
        value, automatic = function(in_jax(of.params))
        value, automatic = float(value), map_leaves(lambda _, leaf: np.asarray(leaf), automatic)
    assert value == pytest.approx(elbo(of), rel=1e-13)
    by_hand = leaves(gradient(of))
    if free:
        by_hand |= leaves(closed_form.local_gradient(of.params, of.data, of.prior, of.zoo.spec))
    assert by_hand.keys() == leaves(automatic).keys()
    for name, leaf in leaves(automatic).items():
        np.testing.assert_allclose(by_hand[name], leaf, rtol=0, atol=1e-12 * max(1.0, np.abs(leaf).max()), err_msg=name)
        assert np.abs(leaf).max() > 0.1  # not a comparison of zeros


def test_the_gradient_of_complete_data_is_that_of_the_bound() -> None:
    of = problem("map", free=True)
    state = np.random.default_rng(0).integers(3, size=len(of.data.word))
    of = of._replace(data=of.data._replace(state=state))
    with jax.enable_x64(True):
        data, prior = in_jax(of.data), in_jax(of.prior)
        automatic = jax.grad(lambda params: elbo(Problem(of.zoo, data, prior, params)))(in_jax(of.params))
        automatic = map_leaves(lambda _, leaf: np.asarray(leaf), automatic)
    by_hand = gradient(of).theta
    for hand, auto in zip(by_hand, automatic.theta, strict=True):
        np.testing.assert_allclose(hand, auto, rtol=0, atol=1e-12)
    local = closed_form.local_gradient(of.params, of.data, of.prior, of.zoo.spec).phi.state_logits
    assert not local.any()
    assert not automatic.phi.state_logits.any()


@every_method
def test_the_bound_never_falls(method: str) -> None:
    for seed in range(3):
        of = problem(method, seed=seed)
        fit = lz.fit(
            of.zoo, of.data, method, prior=of.prior, init=of.params, tol=0.0, num_steps=100_000, progress=False
        )
        assert fit.converged
        at_end = of._replace(params=fit.params)
        assert np.diff(fit.elbo_trace).min() > -1e-12 * float(e_step(at_end).scale)
        assert elbo(at_end) == pytest.approx(fit.elbo, rel=1e-13)
        assert fit.elbo > elbo(of) + 1.0


@every_method
def test_the_fixed_point_is_a_zero_of_the_gradient(method: str) -> None:
    of = problem(method, seed=2)
    assert max(np.abs(leaf).max() for leaf in leaves(gradient(of)).values()) > 0.1
    for _ in range(3000):
        of = update(of)
    tight = free_at_optimum(of)
    local = closed_form.local_gradient(tight.params, of.data, of.prior, of.zoo.spec)
    for name, leaf in (leaves(gradient(of)) | leaves(local)).items():
        np.testing.assert_allclose(leaf, 0.0, atol=1e-12, err_msg=name)


@every_method
def test_an_update_is_a_zero_of_the_gradient_at_its_own_statistics(method: str) -> None:
    """The update is exact: with q(class) held, no direction leads higher."""
    of = problem(method)
    found = e_step(of)
    moved = closed_form.m_step(found, of.params, of.prior, of.zoo.spec)
    for name, leaf in leaves(closed_form.elbo_gradient(found, moved, of.prior, of.zoo.spec)).items():
        np.testing.assert_allclose(leaf, 0.0, atol=1e-11, err_msg=name)
    assert max(np.abs(leaf).max() for leaf in leaves(gradient(of)).values()) > 0.1


@pytest.mark.parametrize("method", ["em", "map"])
def test_em_reaches_the_highest_of_all_likelihoods(method: str) -> None:
    """A numerical optimiser of the likelihood itself, from many starts, finds no higher one."""
    of = problem(method, num_classes=2, size=4, length=60, seed=3)
    context, word, count = of.data.context, of.data.word, of.data.count
    split = 5 * 2

    def loss(x: torch.Tensor) -> torch.Tensor:
        tables = torch.softmax(x[:split].reshape(5, 2), 1), torch.softmax(x[split:].reshape(2, 4), 1)
        likelihood = torch.from_numpy(count) @ torch.log((tables[0] @ tables[1])[context, word])
        if method == "map":
            for table, prior in zip(tables, of.prior, strict=True):
                likelihood = likelihood + Dirichlet(torch.from_numpy(prior)).log_prob(table).sum()
        return -likelihood

    def with_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(x).requires_grad_()
        value = loss(leaf)
        value.backward()
        return value.item(), leaf.grad.numpy()

    rng = np.random.default_rng(0)
    best = min(
        optimize.minimize(with_slope, rng.normal(0.0, 2.0, 18), jac=True, options={"maxiter": 3000, "gtol": 1e-7}).fun
        for _ in range(10)
    )
    fit = lz.fit(of.zoo, of.data, method, prior=of.prior, num_restarts=20, tol=1e-14, num_steps=20_000, progress=False)
    assert fit.elbo == pytest.approx(-best, rel=1e-6)
    assert fit.elbo > -best - 1e-4


# --- ratios of counts -------------------------------------------------------------------------------------------------


def complete(zoo: Any, seed: int = 0, size: int = 4, num_rows: int = 60) -> Any:
    rng = np.random.default_rng(seed)
    context, word = rng.integers(size, size=num_rows), rng.integers(size, size=num_rows)
    state = rng.integers(zoo.spec.num_classes, size=num_rows)
    return zoo.Data(
        np.append(context, size), np.append(word, 0), rng.integers(1, 5, num_rows + 1) * 1.0, np.append(state, 0)
    )


def test_the_maximum_for_complete_data_is_a_ratio_of_counts() -> None:
    zoo = lz.get("aggregate_markov", num_classes=3)
    data = complete(zoo)
    by_class, by_word = Counter(), Counter()
    for x, y, n, z in zip(*(column.tolist() for column in data[:4]), strict=True):
        by_class[x, z] += n
        by_word[z, y] += n
    fit = lz.fit(zoo, data, "mle", progress=False)
    assert fit.converged
    class_probs, word_probs = map(softmax, fit.params.theta)
    for x, z in itertools.product(range(5), range(3)):
        assert class_probs[x, z] == pytest.approx(by_class[x, z] / sum(by_class[x, k] for k in range(3)), abs=1e-14)
    for z, y in itertools.product(range(3), range(4)):
        assert word_probs[z, y] == pytest.approx(by_word[z, y] / sum(by_word[z, k] for k in range(4)), abs=1e-14)
    # And no other tables have a higher likelihood: EM, which has nothing to infer, agrees after one step.
    em = lz.fit(zoo, data, "em", progress=False)
    assert em.elbo == pytest.approx(fit.elbo, rel=1e-13)
    assert em.elbo_trace[1] == pytest.approx(fit.elbo, rel=1e-13)


def test_one_class_is_the_unigram() -> None:
    of = problem("em", num_classes=1)
    fit = lz.fit(of.zoo, of.data, "em", progress=False)
    frequency = np.bincount(of.data.word, weights=of.data.count) / of.data.count.sum()
    assert fit.evaluate()["perplexity"] == pytest.approx(np.exp(stats.entropy(frequency)), rel=1e-13)
    assert language.unigram(of.data).perplexity(of.data) == pytest.approx(fit.evaluate()["perplexity"], rel=1e-13)


def test_a_class_for_each_context_is_the_full_bigram() -> None:
    """From a start where class z follows context z, EM is there after one step."""
    of = problem("em", num_classes=6, size=5, length=200)
    theta = of.zoo.Theta(np.where(np.eye(6, dtype=bool), 0.0, np.log(1e-300)), np.zeros((6, 5)))
    fit = lz.fit(of.zoo, of.data, "em", init=Params(theta, of.zoo.Phi()), progress=False)
    total = np.bincount(of.data.context, weights=of.data.count)[of.data.context]
    assert fit.elbo == pytest.approx((of.data.count * np.log(of.data.count / total)).sum(), rel=1e-13)
    assert fit.elbo_trace[1] == pytest.approx(fit.elbo, rel=1e-13)
    # No tables do better, whatever the number of classes.
    assert fit.elbo > lz.fit(lz.get("aggregate_markov", num_classes=3), of.data, "em", progress=False).elbo


def test_a_context_that_never_was_predicts_the_unigram() -> None:
    of = problem("em", num_classes=3, size=5)
    data = take_rows(of.data, of.data.context != 2)._replace(vocabulary=np.frombuffer(b"a\nb\nc\nd\ne", np.uint8))
    fit = lz.fit(of.zoo, data, "em", progress=False)
    frequency = np.bincount(data.word, weights=data.count, minlength=5) / data.count.sum()
    unseen = data._replace(context=np.full(5, 2), word=np.arange(5), count=np.ones(5))
    np.testing.assert_allclose(fit.predict(unseen)["probability"], frequency, rtol=1e-12)


def test_interpolation_is_with_the_unigram() -> None:
    of = problem("em", num_classes=3, size=5)
    fit = lz.fit(of.zoo, of.data, "em", progress=False)
    frequency = np.bincount(of.data.word, weights=of.data.count) / of.data.count.sum()
    grid = of.data._replace(context=np.repeat(np.arange(6), 5), word=np.tile(np.arange(5), 6), count=np.ones(30))
    model = fit.predict(grid)["probability"]
    for weight in (0.0, 0.3, 1.0):
        params = language.interpolated(fit.params, of.data, weight)
        found = closed_form.predict(params, grid, of.prior, of.zoo.spec)["probability"]
        np.testing.assert_allclose(found, (1.0 - weight) * model + weight * np.tile(frequency, 6), rtol=1e-12)


# --- sums over rows, and symmetries -----------------------------------------------------------------------------------


def assert_same_stats(found: closed_form.Stats, expected: closed_form.Stats) -> None:
    for name, one, other in zip(expected._fields, found, expected, strict=True):
        if name != "scale":
            size = expected.scale if name == "bound" else np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * size, err_msg=name)
    assert found.scale >= expected.scale * (1.0 - 1e-12)


@every_method
@pytest.mark.parametrize("kind", ["optimal", "free", "complete"])
def test_statistics_add_up(method: str, kind: str) -> None:
    of = problem(method, 4, size=30, length=700, free=kind == "free")
    if kind == "complete":
        of = of._replace(data=of.data._replace(state=np.arange(len(of.data.word)) % 4))

    def part(rows: slice) -> closed_form.Stats:
        phi = of.params.phi
        logits = None if phi.state_logits is None else phi.state_logits[rows]
        params = of.params._replace(phi=phi._replace(state_logits=logits))
        return e_step(of._replace(data=take_rows(of.data, rows), params=params))

    assert_same_stats(accumulate.add(iter([part(slice(200)), part(slice(200, None))])), e_step(of))
    if kind != "free":
        chunked = accumulate.in_chunks(closed_form.e_step, 37)
        assert_same_stats(chunked(of.params, of.data, of.prior, of.zoo.spec), e_step(of))


@every_method
def test_chunks_change_no_fit(method: str) -> None:
    of = problem(method, size=20, length=400)
    whole, chunked = (
        lz.fit(of.zoo, of.data, method, prior=of.prior, tol=1e-6, chunk_rows=rows, progress=False)
        for rows in (None, 33)
    )
    np.testing.assert_allclose(chunked.elbo_trace, whole.elbo_trace, rtol=1e-11)


def test_a_bigram_on_several_rows_counts_as_their_sum() -> None:
    of = problem("em")
    walked = of.data._replace(
        context=np.repeat(of.data.context, of.data.count.astype(int)),
        word=np.repeat(of.data.word, of.data.count.astype(int)),
        count=np.ones(int(of.data.count.sum())),
    )
    assert_same_stats(e_step(of._replace(data=walked)), e_step(of))


@every_method
@pytest.mark.parametrize("free", [False, True], ids=["optimal", "free"])
def test_relabelling_changes_nothing(method: str, free: bool) -> None:
    """Classes and words have no order; a prior in its old order is another model."""
    of = problem(method, 4, size=6, length=80, free=free)
    classes, words = np.array([2, 0, 3, 1]), np.array([5, 1, 0, 4, 2, 3])
    contexts = np.append(words, 6)

    def renamed(name: str, leaf: np.ndarray) -> np.ndarray:
        if name.endswith("state_logits"):
            return leaf[:, classes]
        return leaf[contexts][:, classes] if "class_" in name else leaf[classes][:, words]

    data = of.data._replace(context=np.argsort(contexts)[of.data.context], word=np.argsort(words)[of.data.word])
    other = of._replace(
        data=data,
        prior=map_leaves(renamed, of.prior),
        params=map_leaves(renamed, of.params),
    )
    assert elbo(other) == pytest.approx(elbo(of), rel=1e-13)
    if not free:
        expected, found = leaves(map_leaves(renamed, update(of).params)), leaves(update(other).params)
        for name, leaf in expected.items():
            np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-11, err_msg=name)
    if method != "em":
        assert abs(elbo(other._replace(prior=of.prior)) - elbo(of)) > 1e-3


def test_an_e_step_holds_no_table_of_rows_by_classes() -> None:
    num_rows, size, num_classes = 300_000, 3000, 64
    rng = np.random.default_rng(0)
    zoo = lz.get("aggregate_markov", num_classes=num_classes)
    code = np.sort(rng.choice(size * size, num_rows, replace=False))
    data = zoo.Data(code // size, code % size, rng.integers(1, 9, num_rows).astype(float))
    prior = zoo.prior(data)
    params = zoo.init(data, prior, method="map")
    tracemalloc.start()
    try:
        closed_form.e_step(params, data, prior, zoo.spec)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    in_proportion = 8 * (10 * num_rows + 8 * 2 * size * num_classes)
    assert peak < in_proportion < 8 * num_rows * num_classes / 2


# --- a peer -----------------------------------------------------------------------------------------------------------


def shakespeare(zoo: Any, folder: Path, path: Path, num_lines: int | None) -> Any:
    lines = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8").splitlines()[:num_lines]
    path.write_text("\n".join(lines), encoding="utf-8")
    return zoo.read(path, min_count=2)


@pytest.mark.parametrize(
    ("num_lines", "num_restarts"), [(1500, 4), pytest.param(None, 6, marks=pytest.mark.slow)], ids=["prefix", "whole"]
)
def test_no_worse_than_matrix_factorisation(
    num_lines: int | None, num_restarts: int, data_folder: Path, tmp_path: Path
) -> None:
    """Maximum likelihood is the factorisation of the counts with least Kullback-Leibler divergence: the same optima.

    The bigrams' likelihood from a factorisation A ~ W H is that of W H with its rows scaled to sum to one.
    """
    from sklearn import decomposition

    zoo = lz.get("aggregate_markov", num_classes=8)
    data = shakespeare(zoo, data_folder, tmp_path / "text", num_lines)
    size = int(data.context.max())
    table = coo_array((data.count, (data.context, data.word)), (size + 1, size)).tocsr()
    table = table[table.sum(1) > 0.0]
    rows = coo_array(table)

    def peer(seed: int) -> float:
        nmf = decomposition.NMF(
            8, init="random", solver="mu", beta_loss="kullback-leibler", max_iter=300, tol=1e-7, random_state=seed
        )
        left = nmf.fit_transform(table)
        right = nmf.components_
        rescaled = left / (left @ right.sum(1))[:, None]
        probs = (rescaled[rows.row] * right[:, rows.col].T).sum(1)
        return float(rows.data @ np.log(probs))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer, and EM, have not converged after so many steps
        best = max(peer(seed) for seed in range(num_restarts))
        fit = lz.fit(zoo, data, "em", num_restarts=num_restarts, tol=1e-7, num_steps=300, progress=False)
    assert fit.elbo > best


def test_dirichlet_evidence_of_one_class() -> None:
    """With one class mean field is exact: the ELBO is the log evidence of a multinomial with a Dirichlet prior."""
    of = problem("cavi", num_classes=1)
    fit = lz.fit(of.zoo, of.data, "cavi", prior=of.prior, progress=False)
    count = np.bincount(of.data.word, weights=of.data.count)
    beta = of.prior.word_concentration[0]
    evidence = gammaln(beta.sum()) - gammaln(beta.sum() + count.sum()) + (gammaln(beta + count) - gammaln(beta)).sum()
    assert fit.elbo == pytest.approx(evidence, rel=1e-13)
