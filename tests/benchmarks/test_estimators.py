"""The suite of gradient estimators: its exact references, its test of bias, and that it sees what is wrong."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from latentzoo.benchmarks import (
    estimators,
    estimators_costs,
    estimators_evidence,
    estimators_exact,
    estimators_normal,
    estimators_problems,
    estimators_report,
)
from latentzoo.benchmarks.estimators_measure import Contest, Moments, Steps, at_nodes, bias, flat, hermite, steps
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context
from latentzoo.inference import estimators as zoo
from latentzoo.inference.arrays import cholesky
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params

# --- exact references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_latents", [1, 2])
def test_one_particle_is_the_closed_form(num_latents: int) -> None:
    problem = estimators_problems.probabilistic_pca(3, 2, num_latents=num_latents)
    found = estimators_exact.importance_weighted(problem.params, problem.data.x, 1)
    assert found.value == pytest.approx(problem.entry.elbo(problem.params, problem.data, problem.prior), rel=1e-7)
    exact = problem.gradient()
    off = np.abs(np.concatenate([leaf.ravel() for leaf in contract.leaves(found.gradient).values()]) - exact)
    assert off.max() < 1e-6 * np.abs(exact).max()


def test_two_particles_by_a_double_integral() -> None:
    """E log of the mean of two weights, of one latent coordinate, by SciPy's adaptive quadrature."""
    problem = estimators_problems.probabilistic_pca(3, 1, num_latents=1)
    theta, phi, x = problem.params.theta, problem.params.phi, problem.data.x[0]
    mean, scale = phi.latent_mean[0, 0], np.exp(phi.latent_raw_scale[0, 0, 0])

    def log_weight(noise: float) -> Any:
        z = mean + scale * noise
        cells = stats.norm.logpdf(x, theta.weight[:, 0] * z + theta.loc, np.exp(theta.noise_log_scale)).sum()
        return cells + stats.norm.logpdf(z) - stats.norm.logpdf(z, mean, scale)

    axis = np.linspace(-8.5, 8.5, 171)
    logs, density = np.array([log_weight(each) for each in axis]), stats.norm.pdf(axis)
    pairs = np.logaddexp(logs[:, None], logs) - np.log(2.0)
    expected = integrate.trapezoid(integrate.trapezoid(pairs * density, axis) * density, axis)
    found = estimators_exact.importance_weighted(problem.params, problem.data.x, 2).value
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("path", ["theta.weight", "theta.loc", "theta.noise_log_scale", "phi.latent_raw_scale"])
def test_the_gradient_of_many_particles_is_that_of_their_bound(path: str) -> None:
    problem = estimators_problems.probabilistic_pca(4, 1, num_latents=1)
    direction = np.random.default_rng(0).normal(size=np.shape(contract.leaves(problem.params)[path]))

    def bound(step: float) -> float:
        moved = contract.map_leaves(
            lambda name, leaf: leaf + step * direction if name == path else leaf, problem.params
        )
        return estimators_exact.importance_weighted(moved, problem.data.x, 30).value

    def difference(step: float) -> float:
        return (bound(step) - bound(-step)) / (2.0 * step)

    expected = (4.0 * difference(1e-3) - difference(2e-3)) / 3.0
    exact = estimators_exact.importance_weighted(problem.params, problem.data.x, 30).gradient
    assert (contract.leaves(exact)[path] * direction).sum() == pytest.approx(expected, rel=1e-7)


def test_bounds_rise_to_the_evidence() -> None:
    problem = estimators_problems.probabilistic_pca(5, 2)
    best = problem.entry.closed_form.local_optimum(problem.params, problem.data, problem.prior, problem.entry.spec)
    known = problem.entry.elbo(best, problem.data, problem.prior)
    found = [estimators_exact.importance_weighted(problem.params, problem.data.x, count).value for count in (1, 4, 64)]
    assert found == sorted(found)
    assert found[-1] < known
    # At the posterior every weight is the evidence.
    assert estimators_exact.importance_weighted(best, problem.data.x, 10).value == pytest.approx(known, abs=1e-9)


def test_the_wake_gradient_is_that_of_the_inclusive_divergence() -> None:
    """log p(x) - KL(p(z | x) || q) by finite differences, the divergence by the general formula for Gaussians."""
    problem = estimators_problems.probabilistic_pca(6, 2)
    closed, spec, rng = problem.entry.closed_form, problem.entry.spec, np.random.default_rng(0)
    best = closed.local_optimum(problem.params, problem.data, problem.prior, spec)
    directions = contract.map_leaves(lambda _, leaf: rng.normal(size=np.shape(leaf)), problem.params)

    def objective(step: float) -> float:
        moved = [leaf + step * way for leaf, way in zip(problem.params.theta, directions.theta, strict=True)]
        theta = problem.entry.Theta(*moved)
        mean, raw = (leaf + step * way for leaf, way in zip(problem.params.phi, directions.phi, strict=True))
        evidence = closed.log_predictive(Params(theta), problem.data, problem.prior, spec).sum()
        pairs = [
            (at, scale @ np.swapaxes(scale, -1, -2))
            for at, scale in ((best.phi.latent_mean, cholesky(best.phi.latent_raw_scale)), (mean, cholesky(raw)))
        ]
        (p_mean, p_covariance), (q_mean, q_covariance) = pairs
        apart, inverse = q_mean - p_mean, np.linalg.inv(q_covariance)
        trace = np.trace(inverse @ p_covariance, axis1=-2, axis2=-1).sum()
        logs = (np.linalg.slogdet(q_covariance)[1] - np.linalg.slogdet(p_covariance)[1]).sum()
        divergence = 0.5 * (trace + np.einsum("ni,nij,nj->", apart, inverse, apart) - apart.size + logs)
        return float(evidence - divergence)

    def difference(step: float) -> float:
        return (objective(step) - objective(-step)) / (2.0 * step)

    expected = (4.0 * difference(1e-3) - difference(2e-3)) / 3.0
    assert problem.wake_gradient() @ flat(contract.leaves(directions)) == pytest.approx(expected, rel=1e-8)


def test_the_gradient_of_categories_is_that_of_their_sum() -> None:
    problem = estimators_problems.one_hot(1)
    direction = np.random.default_rng(0).normal(size=problem.logits.shape)

    def bound(step: float) -> float:
        logits = problem.logits + step * direction
        q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        joint = np.log(problem.prior) + stats.norm.logpdf(problem.x[:, None], problem.place**2)
        return float((q * (joint - np.log(q))).sum())

    expected = (bound(1e-5) - bound(-1e-5)) / 2e-5
    assert problem.gradient() @ direction.ravel() == pytest.approx(expected, rel=1e-8)


def test_theory_of_the_normal_by_brute_force() -> None:
    """The formulas of the variances against a million draws, to five standard errors."""
    scale, rng = 0.6, np.random.default_rng(0)
    noise = rng.normal(size=(1_000_000, 2))
    z = estimators_problems.MEAN + scale * noise
    cost = stats.norm.logpdf(z) - stats.norm.logpdf(z, estimators_problems.MEAN, scale)
    score = noise / scale
    drawn = {
        "total": -z[:, 0],
        "path": score[:, 0] - z[:, 0],
        "score": cost[:, 0] * score[:, 0],
        "score-leave-one-out": ((cost - cost[:, ::-1]) * score).mean(1) * np.sqrt(2.0),
    }
    theory = estimators_normal.theory(np.array([scale]))
    for name, values in drawn.items():
        squared = (values - values.mean()) ** 2
        assert abs(squared.mean() - theory[name][0]) < 5.0 * squared.std() / 1e3, name
    assert theory[estimators_normal.BEST][0] <= theory["score"][0]


# --- the test of bias -------------------------------------------------------------------------------------------------


def drawn(off: float, num_steps: int = 2000) -> Steps:
    return Steps(np.random.default_rng(0).normal(size=(num_steps, 3)) + np.array([1.0 + off, 2.0, 3.0]), 1.0)


def test_a_bias_is_seen_and_none_is_not_invented() -> None:
    exact = np.array([1.0, 2.0, 3.0])
    good = bias(drawn(0.0), exact)
    assert good.score <= good.allowed
    assert good.size < 0.03
    bad = bias(drawn(2.0 * good.seen * np.linalg.norm(exact)), exact)
    assert bad.score > bad.allowed
    assert bad.size == pytest.approx(2.0 * good.seen, rel=0.5)


def test_the_power_is_as_stated() -> None:
    """Of 400 runs with the smallest bias that is told, about one in a hundred goes unseen."""
    rng, exact = np.random.default_rng(0), np.zeros(1) + 1.0
    seen = bias(Steps(rng.normal(size=(500, 1)) + 1.0, 1.0), exact).seen
    judged = [bias(Steps(rng.normal(size=(500, 1)) + 1.0 + seen, 1.0), exact) for _ in range(400)]
    unseen = sum(each.score <= each.allowed for each in judged)
    assert stats.binomtest(unseen, 400, 0.01).pvalue > 1e-4


def test_numbers_that_never_vary_must_be_right() -> None:
    still = Steps(np.ones((10, 2)), 1.0)
    assert bias(still, np.ones(2)).score == 0.0
    assert bias(still, np.array([1.0, 1.0 + 1e-6])).score == np.inf


def test_hermite_nodes_have_the_moments_of_the_normal() -> None:
    nodes, weights = hermite(3, 2)
    assert weights @ nodes[:, 0] ** 4 == pytest.approx(3.0)
    assert weights @ (nodes[:, 0] ** 2 * nodes[:, 1] ** 2) == pytest.approx(1.0)
    moments = Moments(nodes, weights)
    np.testing.assert_allclose(moments.mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(moments.variance, 1.0)


# --- what is run ------------------------------------------------------------------------------------------------------


def few_steps(patch: pytest.MonkeyPatch) -> None:
    """Take few steps, in Pyro alone: NumPyro compiles for seconds."""
    patch.setitem(estimators_costs.NUM_STEPS, True, {"pyro": 30})
    patch.setattr(estimators_costs, "ENOUGH", 10)
    for module in (estimators_costs, estimators_normal):
        patch.setattr(module, "LIBRARIES", ("pyro",))


def test_steps_are_the_same_problem_in_both_libraries() -> None:
    contest, exact = (
        make(np.array([0.8])) for make in (estimators_problems.normal, estimators_problems.normal_gradient)
    )
    assert isinstance(contest, Contest)
    for library, num_steps in (("numpyro", 1000), ("pyro", 60)):
        found = steps(library, "score-running", contest, num_steps)
        judged = bias(found, exact)
        assert found.each.shape == (num_steps, 2)
        assert judged.score <= judged.allowed
        assert 0.0 < found.seconds < 1.0
        assert (found.compile_seconds > 0.0) == (library == "numpyro")


@pytest.fixture(scope="module")
def of_normal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """Return the folder and the rows of a run in Pyro alone."""
    folder = tmp_path_factory.mktemp("normal")
    with pytest.MonkeyPatch.context() as patch:
        few_steps(patch)
        return folder, list(estimators_normal.rows(Context(folder, True, 0, {})))


@pytest.mark.parametrize("name", [*estimators_normal.ESTIMATORS, estimators_normal.BEST])
def test_variances_are_those_of_theory(name: str, of_normal: tuple[Path, list[Row]]) -> None:
    found = [row for row in of_normal[1] if row.quantity == estimators_report.BY_MEAN and row.variant == name]
    assert len(found) == len(estimators_normal.SCALES)
    assert {row.data: row.error for row in found if not row.ok} == {}


def test_the_normal_has_no_bias_a_picture_and_a_table(of_normal: tuple[Path, list[Row]]) -> None:
    folder, rows = of_normal
    claims = [row for row in rows if row.quantity in (estimators_report.EXACT, estimators_report.CROSSING)]
    assert len(claims) == 6
    assert all(row.ok for row in claims)
    assert (folder / estimators_report.picture(estimators_report.NORMAL)).stat().st_size > 1000
    text = estimators.section(rows, folder)
    assert "| path | pyro | 9.2 |" in text
    assert "(estimators/normal.png)" in text


def test_another_estimator_under_a_name_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The total derivative less the score has the same mean, and another variance."""
    few_steps(monkeypatch)
    monkeypatch.setitem(estimators_normal.ESTIMATORS, "total", (zoo.Controlled(-1.0), 1))
    rows = estimators_normal.rows(Context(tmp_path, True, 0, {}))
    found = {(row.quantity, row.variant, row.data): row.ok for row in rows}
    assert found[estimators_report.EXACT, "total", ""]
    assert not found[estimators_report.BY_MEAN, "total", "s = 0.5"]
    assert not found[estimators_report.CROSSING, "", ""]


def test_a_candidate_that_is_biased_fails_where_it_claims_not_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few_steps(monkeypatch)
    context = Context(tmp_path, True, 0, {})
    problem = estimators_problems.one_hot(0)
    claims = estimators_costs.named("score", "enumerated")
    biased = estimators_costs.Candidate("relaxed", zoo.Relaxed(3.0))
    run = partial(estimators_costs.measured, "one_hot", exact=lambda _: problem.gradient(), context=context)
    found = {
        row.variant: row
        for contest, candidates in (
            (problem.contest, [claims[0], biased, biased._replace(name="told", unbiased=False)]),
            (problem.indexed, [claims[1]]),
        )
        for row in run(contest=contest, candidates=candidates)
        if row.quantity == estimators_report.BIAS
    }
    assert {name: row.ok for name, row in found.items()} == {
        "score, K = 1": True,
        "relaxed, K = 1": False,
        "told, K = 1": None,
        "enumerated, K = 1": True,
    }
    assert found["enumerated, K = 1"].value == pytest.approx(0.0, abs=1e-12)


def test_a_minibatch_stands_for_all_rows() -> None:
    problem = estimators_problems.probabilistic_pca(0, 4)
    half = problem.minibatch(2)
    noise, weights = hermite(3, 2)
    shared = {"latent": np.repeat(noise[:, None, None], 2, axis=2)}
    found = at_nodes("pyro", "score", half.contest, shared, weights).mean
    np.testing.assert_allclose(found, half.gradient(), atol=1e-10 * np.abs(half.gradient()).max())
    alone = half._replace(total_rows=None).gradient()
    np.testing.assert_allclose(half.gradient(), 2.0 * alone, rtol=1e-12)


@pytest.mark.parametrize(("proposal", "factor"), [("guide", 1.0), (1.5, 1.5)])
def test_a_wider_proposal_has_scales_so_much_larger(proposal: str | float, factor: float) -> None:
    problem = estimators_problems.probabilistic_pca(0, 2)
    covariance = [
        cholesky(params.phi.latent_raw_scale)
        for params in (estimators_evidence._drawn_from(problem, proposal), problem.params)
    ]
    np.testing.assert_allclose(covariance[0], factor * covariance[1], rtol=1e-12)


def test_the_evidence_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every L_K has the expectation of the quadrature; one with a constant added has not."""
    monkeypatch.setitem(estimators_evidence.NUM_PARTICLES, True, (2, 30))
    monkeypatch.setattr(estimators_evidence, "PROPOSALS", (1.5,))
    run = estimators_evidence._evidence

    def in_pyro(problem: Any, proposal: Any, count: int, library: str, seed: int) -> Any:
        return run(problem, proposal, count, "pyro", seed)

    monkeypatch.setattr(estimators_evidence, "_evidence", in_pyro)
    rows = list(estimators_evidence.rows(Context(tmp_path, True, 0, {})))
    gaps = [row for row in rows if row.quantity == estimators_report.GAP]
    assert [row.ok for row in gaps] == [True] * 3
    assert (tmp_path / estimators_report.picture(estimators_report.EVIDENCE)).stat().st_size > 1000
    text = estimators.section(rows, tmp_path)
    assert "| guide, 1.5 times as wide, K = 30 | pyro |" in text
    monkeypatch.setattr(
        estimators_evidence,
        "_evidence",
        lambda *args: (found := in_pyro(*args))._replace(rows=found.rows + 2.0, log_evidence=found.log_evidence + 16.0),
    )
    rows = list(estimators_evidence.rows(Context(tmp_path, True, 0, {})))
    assert not any(row.ok for row in rows if row.quantity == estimators_report.GAP)


@pytest.mark.parametrize(("power", "ok"), [(0.5, True), (-0.5, False)])
def test_a_slope_is_read_off_and_its_sign_is_the_claim(power: float, ok: bool) -> None:
    counts = (1, 10, 100)
    row = estimators_costs._slope(partial(Row, "estimators"), counts, [each**power for each in counts], 0.5)
    assert row.value == pytest.approx(power)
    assert row.ok is ok
