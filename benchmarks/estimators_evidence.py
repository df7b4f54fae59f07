"""The importance-weighted bound L_K under several proposals, where log p(x) and the expectation of L_K are exact."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from latentzoo.benchmarks import estimators_exact, estimators_picture, estimators_problems
from latentzoo.benchmarks.estimators_measure import LEVEL
from latentzoo.benchmarks.estimators_problems import Zoo
from latentzoo.benchmarks.estimators_report import ESS, EVIDENCE, GAP, KHAT, picture
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context
from latentzoo.inference.importance import Evidence, evidence
from latentzoo.inference.pictures import write
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Library

NUM_ROWS = 8
WIDTH, DISTANCE = 0.6, 0.1  # of the guide, in scales of the posterior: it is too sure, as mean-field guides are
WIDER = 1.5
PROPOSALS: tuple[str | float, ...] = ("prior", "guide", WIDER)
NUM_PARTICLES: dict[bool, tuple[int, ...]] = {True: (2, 10, 100, 1000), False: (2, 5, 10, 30, 100, 300, 1000, 10_000)}
NUM_SEEDS = {True: 8, False: 30}


class Gaps(NamedTuple):
    """L_K - log p(x) of a proposal, in nats: its mean over seeds, with its standard error, and its expectation."""

    mean: list[float]
    error: list[float]
    exact: list[float]


def rows(context: Context) -> Iterator[Row]:
    """Yield the gap of each proposal at each K and its weights at the largest, and draw the gaps.

    NumPyro compiles at each call: there each proposal is run once, at the largest K.
    """
    problem = estimators_problems.probabilistic_pca(context.seed, NUM_ROWS, distance=DISTANCE, width=WIDTH)
    entry, data, prior = problem.entry, problem.data, problem.prior
    known = entry.elbo(entry.closed_form.local_optimum(problem.params, data, prior, entry.spec), data, prior)
    counts, gaps = NUM_PARTICLES[context.quick], {}
    for proposal in PROPOSALS:
        name, params = _name(proposal), _drawn_from(problem, proposal)
        gaps[name] = Gaps([], [], [])
        for count in counts:
            expected = estimators_exact.importance_weighted(params, data.x, count).value - known
            row = partial(Row, "estimators", entry=EVIDENCE, variant=f"{name}, K = {count}")
            seeds = range(context.seed, context.seed + NUM_SEEDS[context.quick])
            found = [_evidence(problem, proposal, count, "pyro", seed) for seed in seeds]
            mean, error, allowed = _mean(found)
            gaps[name].mean.append(mean - known)
            gaps[name].error.append(error)
            gaps[name].exact.append(expected)
            note = f"the mean of {len(found)} seeds, standard error {error:.2g}"
            yield _judged(partial(row, library="pyro", note=note), mean - known, expected, error * allowed)
        yield from _weights(partial(row, library="pyro"), found[0])
        one = _evidence(problem, proposal, counts[-1], "numpyro", context.seed)
        alone, note = error * np.sqrt(len(found)), f"one seed, standard error {one.error:.2g} by its weights"
        row = partial(row, library="numpyro")
        yield _judged(partial(row, note=note), one.log_evidence - known, expected, allowed * alone)
        yield from _weights(row, one)
    write(estimators_picture.evidence(counts, gaps), context.folder / picture(EVIDENCE))


def _name(proposal: str | float) -> str:
    return proposal if isinstance(proposal, str) else f"guide, {proposal:g} times as wide"


def _drawn_from(problem: Zoo, proposal: str | float) -> Params:
    """Return the parameters whose guide is the proposal."""
    mean, raw_scale = problem.params.phi
    if proposal == "prior":
        moved = np.zeros_like(mean), np.zeros_like(raw_scale)
    else:
        wider = 1.0 if isinstance(proposal, str) else proposal
        moved = mean, estimators_problems.widened(raw_scale, wider)
    return problem.params._replace(phi=problem.entry.Phi(*moved))


def _evidence(problem: Zoo, proposal: str | float, count: int, library: Library, seed: int) -> Evidence:
    return evidence(
        problem.entry,
        problem.data,
        problem.params,
        prior=problem.prior,
        proposal=proposal,
        num_particles=count,
        library=library,
        seed=seed,
    )


def _mean(found: list[Evidence]) -> tuple[float, float, float]:
    """Return the mean of L_K over seeds, its standard error, and how many of them it is off at most, but for `LEVEL`.

    Rows are independent, so that their variances add up (Welch and Satterthwaite).
    """
    from scipy import stats

    each = np.stack([one.rows for one in found])
    variance = each.var(axis=0, ddof=1) / len(each)
    freedom = variance.sum() ** 2 / (variance**2 / (len(each) - 1)).sum()
    return float(each.sum(1).mean()), float(np.sqrt(variance.sum())), float(stats.t.isf(LEVEL / 2.0, freedom))


def _judged(row: partial[Row], value: float, expected: float, allowed: float) -> Row:
    """Return the row of a gap; its expectation is by quadrature."""
    error = abs(value - expected)
    return row(GAP, value=value, unit="nats", reference=expected, error=error, tolerance=allowed, ok=error <= allowed)


def _weights(row: partial[Row], found: Evidence) -> Iterator[Row]:
    """Yield what the weights of the worst row are worth."""
    yield row(ESS, value=float(found.ess.min()), note="of the worst row")
    yield row(KHAT, value=float(found.khat.max()), note="of the worst row; from 0.7 on weights cannot be trusted")
