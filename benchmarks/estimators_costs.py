"""What estimators cost on a problem: a line for each, with so many particles, in each library."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.benchmarks import estimators_picture, estimators_problems
from latentzoo.benchmarks.estimators_measure import (
    POWER,
    ROUNDING,
    Contest,
    Steps,
    at_nodes,
    bias,
    hermite,
    steps,
)
from latentzoo.benchmarks.estimators_problems import Zoo
from latentzoo.benchmarks.estimators_report import (
    BIAS,
    COST,
    EARTHQUAKES,
    EXACT,
    ONE_HOT,
    PCA,
    RATIO,
    SHRINKS,
    SIGNAL,
    SLOPE,
    TIME,
    VARIANCE,
    picture,
)
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context
from latentzoo.inference import estimators as zoo
from latentzoo.inference.particles import Estimator
from latentzoo.inference.pictures import write
from latentzoo.models.language.ppl import LIBRARIES

NUM_STEPS = {True: {"numpyro": 2_000, "pyro": 60}, False: {"numpyro": 50_000, "pyro": 2_000}}  # quick or not
COSTLY = {"controlled": 3}  # in Pyro: it takes a gradient for each number of each separate draw, so fewer steps
NUM_PARTICLES: dict[bool, tuple[int, ...]] = {True: (5,), False: (2, 5, 10)}  # beside 1
NUM_ROWS = {PCA: 8, EARTHQUAKES: 30, SIGNAL: 4}
TEMPERATURES = (0.1, 0.5, 1.0)
# Steps, for a claim: z-scores of fewer draws, which are skewed, exceed Student's t too often, and noise hides a bias.
ENOUGH = 2_000
WAKE_PARTICLES = (2, 50)  # of reweighted wake-sleep
SIGNAL_PARTICLES: dict[bool, tuple[int, ...]] = {True: (1, 10, 100), False: (1, 3, 10, 30, 100, 300, 1000)}
SLOPES = {"iwae": -0.5, "dreg": 0.5}  # of log SNR in log K as K grows
FROM = 10  # particles: below, the slopes have not settled


class Candidate(NamedTuple):
    """An estimator under a name, with so many particles. unbiased: whether that is its claim."""

    name: str
    estimator: Estimator
    num_particles: int = 1
    unbiased: bool = True

    @property
    def variant(self) -> str:
        """The name in rows."""
        return f"{self.name}, K = {self.num_particles}"


def num_steps(library: str, quick: bool, name: str) -> int:
    """Return how many steps an estimator takes."""
    return NUM_STEPS[quick][library] // (COSTLY.get(name, 1) if library == "pyro" else 1)


def named(*names: str, num_particles: int = 1) -> list[Candidate]:
    """Return estimators by their names."""
    return [Candidate(name, zoo.ESTIMATORS[name], num_particles) for name in names]


Exact = Callable[[int], Float[np.ndarray, "numbers"]]


def measured(
    entry: str, contest: Contest, candidates: Sequence[Candidate], exact: Exact, context: Context
) -> Iterator[Row]:
    """Yield the rows of each candidate in each library. exact: the gradient, by the number of particles."""
    for candidate in candidates:
        gradient = exact(candidate.num_particles)
        for library in LIBRARIES:
            found = steps(
                library,
                candidate.estimator,
                contest,
                num_steps(library, context.quick, candidate.name),
                num_particles=candidate.num_particles,
                seed=context.seed,
            )
            row = partial(Row, "estimators", entry=entry, variant=candidate.variant, library=library)
            yield from _rows(row, found, gradient, candidate.unbiased)


def _rows(row: Callable[..., Row], found: Steps, exact: Float[np.ndarray, "numbers"], unbiased: bool) -> Iterator[Row]:
    judged, count, micro = bias(found, exact), len(found.each), 1e6 * found.seconds
    claimed, why = unbiased and count >= ENOUGH, "too few for a claim" if unbiased else "biased by design"
    note = (
        f"the largest of {len(exact)} z-scores over {count:,} draws; of an unbiased estimator it would exceed what is"
        f" allowed once in a million runs; a bias of {judged.seen:.2g} lengths of the gradient in one number would have"
        f" been seen with probability {POWER}"
    )
    yield row(
        BIAS,
        value=judged.size,
        unit="lengths of the gradient",
        reference=0.0,
        error=judged.score,
        tolerance=judged.allowed if claimed else None,
        ok=judged.score <= judged.allowed if claimed else None,
        note=note if claimed else f"the largest z-score over {count:,} draws: {why}",
    )
    yield row(VARIANCE, value=found.variance, error=found.variance_error, note="its error is a standard error")
    yield row(TIME, value=micro, unit="µs", compile_seconds=found.compile_seconds)
    yield row(COST, value=micro * found.variance, unit="µs")


# --- entries of the zoo -----------------------------------------------------------------------------------------------


def probabilistic_pca(context: Context) -> Iterator[Row]:
    """Yield the rows of probabilistic PCA with a free q for each row."""
    problem = estimators_problems.probabilistic_pca(context.seed, NUM_ROWS[PCA])
    height = _height(problem)
    candidates = [
        *named("total", "path", "controlled", "score", "score-running"),
        Candidate("score-constant", zoo.Score("constant", height)),
    ]
    several = ["score-leave-one-out", "iwae", "dreg"]
    if not context.quick:
        several += ["total", "path", "controlled", "score"]
    for num_particles in NUM_PARTICLES[context.quick]:
        candidates += named(*several, num_particles=num_particles)

    def exact(num_particles: int, by_particles: bool = False) -> Float[np.ndarray, "numbers"]:
        return problem.gradient(num_particles if by_particles else 1)

    for candidate in candidates:
        of_bound = partial(exact, by_particles=candidate.name in ("iwae", "dreg"))
        yield from measured(PCA, problem.contest, [candidate], of_bound, context)
    yield from _wake(problem, context)
    for name in ("path", "score") if context.quick else ("total", "path", "score"):
        yield from _in_expectation(problem, name, "all rows")
    half = problem.minibatch(NUM_ROWS[PCA] // 2)
    yield from _in_expectation(half, "score", "a minibatch of half the rows")
    yield from _at_the_posterior(context)


def _wake(problem: Zoo, context: Context) -> Iterator[Row]:
    """Yield the rows of reweighted wake-sleep, whose bias falls with the number of particles.

    Its gradient is set against that of log p(x) by theta, and of minus the inclusive KL divergence by phi.
    """
    exact = problem.wake_gradient()
    candidates = [Candidate("rws", zoo.ESTIMATORS["rws"], count, unbiased=False) for count in WAKE_PARTICLES]
    rows = list(measured(PCA, problem.contest, candidates, lambda _: exact, context))
    yield from rows
    yield from _shrinks(rows, candidates[-1], candidates[0], context)


def _shrinks(rows: Sequence[Row], small: Candidate, large: Candidate, context: Context) -> Iterator[Row]:
    """Yield whether the bias of one is below that of another, in the libraries with draws enough to tell."""
    found = {(row.variant, row.library): row.value or 0.0 for row in rows if row.quantity == BIAS}
    for library in LIBRARIES:
        if NUM_STEPS[context.quick][library] >= ENOUGH:
            value, reference = (found[each.variant, library] for each in (small, large))
            row = partial(Row, "estimators", SHRINKS, rows[0].entry, small.variant, library, value=value)
            yield row(reference=reference, ok=value < reference, note=f"the reference is that of {large.variant}")


def _height(problem: Zoo) -> float:
    """Return the mean over rows of the bound, in nats: a constant that is near the cost of each row."""
    return problem.entry.elbo(problem.params, problem.data, problem.prior) / NUM_ROWS[PCA]


def _in_expectation(problem: Zoo, name: str, rows: str) -> Iterator[Row]:
    """Yield the exact bias: the integrands are polynomials of degree 4 at most in the noise of a row."""
    (noise, weights), exact, contest = hermite(3, problem.entry.spec.num_latents), problem.gradient(), problem.contest
    num_rows = len(problem.data.x)
    shared = {"latent": np.repeat(noise[:, None, None], num_rows, axis=2)}
    for library in LIBRARIES:
        found = at_nodes(library, zoo.ESTIMATORS[name], contest, shared, weights)
        yield _equal(found.mean, exact)(EXACT, entry=PCA, variant=name, library=library, data=rows, note=NODES)


NODES = "against the closed form; expectation by Gauss-Hermite nodes as noise"


def _equal(found: Float[np.ndarray, "numbers"], exact: Float[np.ndarray, "numbers"]) -> Callable[..., Row]:
    """Return a row on how far numbers are from what they must be, up to rounding."""
    error, tolerance = float(np.abs(found - exact).max()), ROUNDING * max(1.0, float(np.abs(exact).max()))
    length, reference = (float(np.linalg.norm(numbers)) for numbers in (found, exact))
    row = partial(Row, "estimators", value=length, reference=reference)
    return partial(row, error=error, tolerance=tolerance, ok=error <= tolerance)


def _at_the_posterior(context: Context) -> Iterator[Row]:
    """Yield the largest path derivative by phi of any draw at the exact posterior: it is zero."""
    problem = estimators_problems.probabilistic_pca(context.seed, NUM_ROWS[PCA], distance=0.0)
    contest = problem.contest
    for library in LIBRARIES:
        _, found = zoo.gradients(
            library, "path", contest.pairs[library], contest.params, num_draws=10, rows=contest.rows, seed=context.seed
        )
        largest = np.array([np.abs(found[name]).max() for name in found if name.startswith("phi.")])
        judged = _equal(largest, np.zeros_like(largest))
        note = "the largest number of 10 draws, by the parameters of the guide"
        yield judged(EXACT, entry=PCA, variant="path", library=library, data="at the exact posterior", note=note)


def earthquakes(context: Context) -> Iterator[Row]:
    """Yield the rows of the super-epicentres, whose assignments are enumerated and whose rates are Gammas."""
    problem = estimators_problems.earthquakes(context.seed, NUM_ROWS[EARTHQUAKES])
    exact, names = problem.gradient(), ["total", "path", "score"]
    if not context.quick:
        names.append("controlled")  # which alone would take as long to compile as the others together
    counts = (1,) if context.quick else (1, *NUM_PARTICLES[False])
    candidates = [one for count in counts for one in named(*names, num_particles=count)]
    yield from measured(EARTHQUAKES, problem.contest, candidates, lambda _: exact, context)


# --- one-hot categories -----------------------------------------------------------------------------------------------


def one_hot(context: Context) -> Iterator[Row]:
    """Yield the rows of one-hot categories: exact by enumeration, relaxed at several temperatures, by scores."""
    problem = estimators_problems.one_hot(context.seed)
    exact, contest = problem.gradient(), problem.contest
    relaxed = [
        Candidate(f"{name}, temperature {temperature:g}", kind(temperature), unbiased=False)
        for name, kind in (("relaxed", zoo.Relaxed), ("straight-through", zoo.StraightThrough))
        for temperature in TEMPERATURES
    ]
    yield from measured(ONE_HOT, problem.indexed, named("enumerated"), lambda _: exact, context)
    scores = [*named("score", "score-running"), *named("score-leave-one-out", num_particles=2)]
    rows = list(measured(ONE_HOT, contest, [*scores, *relaxed], lambda _: exact, context))
    yield from rows
    yield from _shrinks(rows, relaxed[0], relaxed[len(TEMPERATURES) - 1], context)
    scale = float(np.linalg.norm(exact))
    write(estimators_picture.temperatures(rows, TEMPERATURES, scale), context.folder / picture(ONE_HOT))


# --- signal and noise -------------------------------------------------------------------------------------------------


def signal(context: Context) -> Iterator[Row]:
    """Yield the signal-to-noise ratio of gradients by the guide's parameters, and its slope in K.

    The signal is the exact expectation, the noise the standard deviation of the draws.
    """
    width = 1.2  # of the posterior: the weights then have moments of every order
    problem = estimators_problems.probabilistic_pca(context.seed, NUM_ROWS[SIGNAL], num_latents=1, width=width)
    contest, counts = problem.contest, SIGNAL_PARTICLES[context.quick]
    of_guide = _of_guide(contest)
    found: dict[tuple[str, str], list[float]] = {}
    for name in SLOPES:
        for library in LIBRARIES:
            row = partial(Row, "estimators", entry=SIGNAL, library=library)
            ratios = []
            for count in counts:
                exact, size = problem.gradient(count), num_steps(library, context.quick, name)
                estimator, seed = zoo.ESTIMATORS[name], context.seed
                drawn = steps(library, estimator, contest, size, num_particles=count, seed=seed)
                yield from _rows(partial(row, variant=f"{name}, K = {count}"), drawn, exact, unbiased=True)
                ratios.append(float((np.abs(exact) / drawn.each.std(axis=0, ddof=1))[of_guide].mean()))
                yield row(RATIO, variant=f"{name}, K = {count}", value=ratios[-1])
            found[name, library] = ratios
            yield _slope(partial(row, variant=name), counts, ratios, SLOPES[name])
    write(estimators_picture.signal(counts, found), context.folder / picture(SIGNAL))


def _of_guide(contest: Contest) -> np.ndarray:
    """Return which numbers are of the guide."""
    return np.concatenate([np.full(np.size(leaf), name.startswith("phi.")) for name, leaf in contest.params.items()])


def _slope(row: Callable[..., Row], counts: Sequence[int], ratios: Sequence[float], expected: float) -> Row:
    """Return the slope of the logarithms, and whether it has the sign of the one that is expected."""
    late = np.array(counts) >= FROM
    slope = float(np.polyfit(np.log(np.array(counts)[late]), np.log(np.array(ratios)[late]), 1)[0])
    note = f"fitted from K = {FROM} on; the claim is the sign"
    return row(SLOPE, value=slope, reference=expected, error=abs(slope - expected), ok=slope * expected > 0, note=note)
