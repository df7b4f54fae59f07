"""p = Normal(0, 1) and q = Normal(m, s^2): exact moments of every estimator, over a range of s."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from jaxtyping import Float

from latentzoo.benchmarks import estimators_picture
from latentzoo.benchmarks.estimators_costs import ENOUGH, num_steps
from latentzoo.benchmarks.estimators_measure import ROUNDING, Contest, Moments, at_nodes, bias, hermite, steps
from latentzoo.benchmarks.estimators_problems import MEAN, normal, normal_gradient
from latentzoo.benchmarks.estimators_report import BIAS, BY_MEAN, CROSSING, EXACT, NORMAL, picture
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context
from latentzoo.inference import estimators as zoo
from latentzoo.inference.particles import Estimator
from latentzoo.inference.pictures import write
from latentzoo.models.language.ppl import LIBRARIES

CROSS = 1.0 / np.sqrt(2.0)
SCALES = np.array([0.3, 0.4, 0.5, 0.6, CROSS, 0.85, 1.0, 1.25, 1.5])
SCALES_OF_CONTROLLED: dict[bool, tuple[float, ...]] = {True: (0.5, 1.25), False: (0.5, CROSS, 1.25)}  # quick or not
NUM_NODES = 5  # the squares of what is integrated have degree 8
ESTIMATORS: dict[str, tuple[Estimator, int]] = {
    "total": (zoo.Total(), 1),
    "path": (zoo.Path(), 1),
    "score": (zoo.Score(), 1),
    "score-leave-one-out": (zoo.Score("leave-one-out"), 2),
}
BEST = "score, best constant"
CONTROLLED = "controlled"
_row = partial(Row, "estimators", entry=NORMAL)


def rows(context: Context) -> Iterator[Row]:
    """Yield exact biases and variances, those of the estimated control variate by draws, and draw them."""
    contest, exact = normal(SCALES), normal_gradient(SCALES)
    dots: dict[str, np.ndarray] = {}
    for library in LIBRARIES:
        found = {name: _moments(library, *chosen, contest) for name, chosen in ESTIMATORS.items()}
        found[BEST] = _best_constant(library, contest, found["score"])
        for name, moments in found.items():
            yield _unbiased(library, name, moments, exact)
            by_mean = moments.variance[: len(SCALES)] * _particles(name)
            dots[name] = by_mean
            yield from _by_mean(library, name, by_mean)
        yield _crossing(library, dots)
    controlled: dict[float, float] = {}
    for scale in SCALES_OF_CONTROLLED[context.quick]:
        for library in ("pyro",) if context.quick else LIBRARIES:  # NumPyro compiles for seconds at each scale
            row, controlled[scale] = _controlled(library, scale, context)
            yield from row
    fine = np.linspace(SCALES[0], SCALES[-1], 121)
    figure = estimators_picture.normal((SCALES, dots), controlled, (fine, theory(fine)))
    write(figure, context.folder / picture(NORMAL))


def _particles(name: str) -> int:
    return ESTIMATORS[name][1] if name in ESTIMATORS else 1


def _moments(library: str, estimator: Estimator, num_particles: int, contest: Contest) -> Moments:
    noise, weights = hermite(NUM_NODES, num_particles)
    shared = {"z": np.repeat(noise[:, :, None], len(SCALES), axis=2)}
    return at_nodes(library, estimator, contest, shared, weights, num_particles)


def _best_constant(library: str, contest: Contest, none: Moments) -> Moments:
    """Return the moments under the constant baseline that is best for each number: Cov(estimate, score) / Var(score).

    A baseline of 1 takes the score off once.
    """
    score = none.each - _moments(library, zoo.Score("constant", 1.0), 1, contest).each
    centred, score_mean = none.each - none.mean, none.weights @ score
    best = none.weights @ (centred * score) / (none.weights @ (score - score_mean) ** 2)
    return Moments(none.each - best * score, none.weights)


def _unbiased(library: str, name: str, moments: Moments, exact: Float[np.ndarray, "numbers"]) -> Row:
    error, tolerance = float(np.abs(moments.mean - exact).max()), ROUNDING * max(1.0, float(np.abs(exact).max()))
    note = f"by m and by log s at {len(SCALES)} values of s; Gauss-Hermite nodes as noise"
    return _row(
        EXACT, variant=name, library=library, error=error, tolerance=tolerance, ok=error <= tolerance, note=note
    )


def _by_mean(library: str, name: str, variance: Float[np.ndarray, "scales"]) -> Iterator[Row]:
    """Yield the variance by m at each s, times the number of particles, against theory."""
    for scale, value, known in zip(SCALES, variance.tolist(), theory(SCALES)[name].tolist(), strict=True):
        error, tolerance = abs(value - known), ROUNDING * max(1.0, known)
        yield _row(
            BY_MEAN,
            variant=name,
            library=library,
            data=f"s = {scale:.3g}",
            value=value,
            reference=known,
            error=error,
            tolerance=tolerance,
            ok=error <= tolerance,
        )


def _crossing(library: str, dots: dict[str, np.ndarray]) -> Row:
    """Return how far apart the variances of total and path are where they cross."""
    here = int(np.argmin(np.abs(SCALES - CROSS)))
    total, path = (float(dots[name][here]) for name in ("total", "path"))
    below, above = dots["total"] < dots["path"], dots["total"] > dots["path"]
    crossed = bool(below[:here].all() and above[here + 1 :].all())
    error = abs(total - path)
    note = "total is the better one at every smaller s, path at every larger one"
    return _row(
        CROSSING,
        library=library,
        value=total,
        reference=path,
        error=error,
        tolerance=ROUNDING,
        ok=crossed and error <= ROUNDING,
        note=note,
    )


def _controlled(library: str, scale: float, context: Context) -> tuple[list[Row], float]:
    """Return rows on the control variate whose coefficient is estimated at each step, and its variance by m."""
    at = np.array([scale])
    found = steps(
        library, zoo.Controlled(), normal(at), num_steps(library, context.quick, CONTROLLED), seed=context.seed
    )
    judged, variance = bias(found, normal_gradient(at)), float(found.each[:, 0].var(ddof=1))
    row = partial(_row, variant=CONTROLLED, library=library, data=f"s = {scale:.3g}")
    note = f"the largest of 2 z-scores over {len(found.each):,} draws"
    ok = judged.score <= judged.allowed if len(found.each) >= ENOUGH else None
    return [
        row(BIAS, value=judged.size, reference=0.0, error=judged.score, tolerance=judged.allowed, ok=ok, note=note),
        row(BY_MEAN, value=variance, note="by draws; with the best coefficient, s^2, it would be 0"),
    ], variance


# --- theory -----------------------------------------------------------------------------------------------------------


def theory(scales: Float[np.ndarray, "scales"]) -> dict[str, Float[np.ndarray, "scales"]]:
    """Return the variance by m, times the number of particles, by name and at each s.

    With z = m + s e the derivative by m is -z, or e / s - z along the path alone; the score is g = e / s, and the cost
    f = log p - log q, whose moments are taken over a grid of e. Two draws: (f1 - f2) (g1 - g2) / 2, leave-one-out.
    """
    noise, weights = hermite(20, 1)
    noise, column = noise[:, 0], scales[:, None]
    score, latent = noise / column, MEAN + column * noise
    cost = 0.5 * (noise**2 - latent**2) + np.log(column)
    mean, flat, tilted, steep = (
        moment @ weights for moment in (cost * score, score**2, cost * score**2, (cost * score) ** 2)
    )
    pairs = 0.5 * (cost[:, :, None] - cost[:, None, :]) * (score[:, :, None] - score[:, None, :])
    return {
        "total": scales**2,
        "path": (1.0 / scales - scales) ** 2,
        "score": steep - mean**2,
        "score-leave-one-out": 2.0 * (np.einsum("sij,i,j->s", pairs**2, weights, weights) - mean**2),
        BEST: steep - tilted**2 / flat - mean**2,
    }
