"""One Gaussian on two modes: which optimum each divergence has, and which of them each start leads to."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import integrate
from scipy.stats import norm

from latentzoo.benchmarks import two_modes_picture
from latentzoo.benchmarks.report import link, mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference.fit import fit
from latentzoo.inference.pictures import write
from latentzoo.inference.registry import Entry, get
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note

SUITE = (
    "one Gaussian on two modes: the optima of exclusive, inclusive and other divergences, and which starts lead there"
)
ENTRY, PICTURE = "two_modes", Path("two_modes") / "two_modes.png"
# Where the modes are, of unit width and equal weight, and at how many places the exclusive divergence has a minimum.
NUM_OPTIMA = {3.0: 3, 2.0: 1}
GRID = {True: (21, 11), False: (81, 41)}  # quick or not: means and widths to start from
NUM_ALPHAS = {True: 20, False: 60}
LEARNING_RATES = {True: (0.01, 0.03, 0.1, 0.3, 1.0), False: (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)}
NUM_STARTS = {True: 7, False: 25}  # of SVI
SVI_STEPS = {True: 1_000, False: 5_000}
NUM_PARTICLES = (2, 10, 100)  # of reweighted wake-sleep
SAME = 0.05  # means that differ by less are of the same optimum
TOLERANCE = 1e-10


class Problem(NamedTuple):
    """A target with its modes at -apart and apart."""

    apart: float

    @property
    def zoo(self) -> Entry:
        """The entry."""
        return get(ENTRY)

    @property
    def prior(self) -> object:
        """The target."""
        return self.zoo.prior(loc=[[-self.apart], [self.apart]])

    @property
    def name(self) -> str:
        """The name in rows."""
        return f"modes at -{self.apart:g} and {self.apart:g}"

    def fit(self, method: str, mean: float, sd: float, **options: object) -> Fit:
        """Fit from a start; whether it converged is no warning."""
        start = Params(phi=self.zoo.Phi(np.array([mean]), np.array([[np.log(sd)]])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)
            return fit(self.zoo, method=method, prior=self.prior, init=start, progress=False, **options)  # type: ignore[arg-type]


def moments_of(found: Fit) -> tuple[float, float]:
    """Return the mean and the standard deviation of q."""
    return float(found.params.phi.loc[0]), float(np.exp(found.params.phi.raw_scale[0, 0]))


def units(context: Context) -> Iterator[Unit]:
    """Yield the one unit: all that the picture is made of."""
    yield Unit("sweep", partial(_swept, context))


def _swept(context: Context) -> Iterator[Row]:
    quick = context.quick
    row = partial(Row, "two_modes", entry=ENTRY)
    sweeps = {}
    for apart in NUM_OPTIMA:
        sweeps[apart] = sweep(Problem(apart), *GRID[quick])
        yield from _optima(partial(row, variant=Problem(apart).name), Problem(apart), sweeps[apart])
    problem = Problem(next(iter(NUM_OPTIMA)))
    yield from _inclusive(partial(row, variant=problem.name), problem)
    yield from _wake(partial(row, variant=problem.name, library="numpyro"), problem, context.seed)
    branches = [branch(problem, start, NUM_ALPHAS[quick]) for start in (problem.apart, 0.0)]
    yield _jump(partial(row, variant=problem.name), branches[0])
    rates = by_rate(problem, LEARNING_RATES[quick], NUM_STARTS[quick], SVI_STEPS[quick], context.seed)
    yield from _by_rate(partial(row, variant=problem.name, library="numpyro"), problem, rates)
    write(two_modes_picture.draw(problem.prior, sweeps, branches, rates), context.folder / PICTURE)


# --- which starts lead where ----------------------------------------------------------------------------------------


class Sweep(NamedTuple):
    """Where runs end: the mean and the standard deviation of q, and KL(q || p), by where they began."""

    starts: Float[np.ndarray, "starts"]
    others: Float[np.ndarray, "others"]  # widths to start from, or learning rates
    mean: Float[np.ndarray, "others starts"]
    sd: Float[np.ndarray, "others starts"]
    kl: Float[np.ndarray, "others starts"]

    @classmethod
    def of(cls, starts: np.ndarray, others: np.ndarray, fits: Sequence[Fit]) -> "Sweep":
        """Return the sweep of these fits, those of one of the others after another."""
        ends = np.array([(*moments_of(each), -each.elbo) for each in fits]).T.reshape(3, len(others), len(starts))
        return cls(starts, others, *ends)

    def optima(self) -> list[tuple[float, float, float, float]]:
        """Return mean, sd and KL of each end that is unlike the others, and the part of the starts that lead there."""
        found: list[tuple[float, float, float, float]] = []
        for mean, sd, kl in zip(self.mean.ravel(), self.sd.ravel(), self.kl.ravel(), strict=True):
            if not any(abs(mean - other[0]) < SAME for other in found):
                found.append((mean, sd, kl, float((np.abs(self.mean - mean) < SAME).mean())))
        return sorted(found)


def sweep(problem: Problem, num_means: int, num_widths: int) -> Sweep:
    """Run the exclusive ascent from every mean and width of a grid."""
    means, widths = np.linspace(-6.0, 6.0, num_means), np.geomspace(0.25, 8.0, num_widths)
    fits = [problem.fit("ascent", mean, width, tol=1e-10) for width in widths for mean in means]
    return Sweep.of(means, widths, fits)


def _optima(row: "partial[Row]", problem: Problem, found: Sweep) -> Iterator[Row]:
    optima, expected = found.optima(), NUM_OPTIMA[problem.apart]
    note = f"of {found.mean.size} starts"
    yield row("optima of KL(q || p)", value=len(optima), reference=expected, ok=len(optima) == expected, note=note)
    for mean, sd, kl, part in optima:
        exact = divergence(problem.apart, mean, sd)
        error, where = abs(kl - exact), f"q of mean {mean:+.3f}"
        note = f"sd {sd:.4f}; {part:.0%} of the starts end there; the reference is by adaptive quadrature"
        name = f"KL(q || p), {where}"
        yield row(
            name,
            value=kl,
            unit="nats",
            reference=exact,
            error=error,
            tolerance=TOLERANCE,
            ok=error < TOLERANCE,
            note=note,
        )


def divergence(apart: float, mean: float, sd: float) -> float:
    """Return KL(q || p) by SciPy's adaptive quadrature, from SciPy's densities."""

    def integrand(x: float) -> float:
        log_q = norm.logpdf(x, mean, sd)
        return float(
            np.exp(log_q) * (log_q - np.logaddexp(norm.logpdf(x, -apart), norm.logpdf(x, apart)) + np.log(2.0))
        )

    ends = (mean - 12.0 * sd, mean + 12.0 * sd)
    inner = [point for point in (-apart, 0.0, apart) if ends[0] < point < ends[1]]
    return float(integrate.quad(integrand, *ends, points=inner, epsabs=1e-13, epsrel=1e-13, limit=500)[0])


# --- from the exclusive to the inclusive divergence -----------------------------------------------------------------


def _inclusive(row: "partial[Row]", problem: Problem) -> Iterator[Row]:
    mean, sd = moments_of(problem.fit("moments", 1.0, 1.0))
    exact = np.sqrt(1.0 + problem.apart**2)
    error = max(abs(mean), abs(sd - exact))
    note = "the sd of the target; the mean is 0"
    ok = error < TOLERANCE
    yield row(
        "sd where KL(p || q) is lowest", value=sd, reference=exact, error=error, tolerance=TOLERANCE, ok=ok, note=note
    )


def _wake(row: "partial[Row]", problem: Problem, seed: int) -> Iterator[Row]:
    """Yield where reweighted wake-sleep ends, which climbs the inclusive divergence with a bias of order 1 / K."""
    exact = float(np.sqrt(1.0 + problem.apart**2))
    for num_particles in NUM_PARTICLES:
        found = problem.fit("svi", 1.0, 2.0, estimator="rws", num_particles=num_particles, num_steps=2_000, seed=seed)
        mean, sd = moments_of(found)
        note = f"self-normalised weights, biased by order 1 / K; the mean ends at {mean:+.3f}"
        yield row(f"sd by reweighted wake-sleep, K = {num_particles}", value=sd, reference=exact, note=note)


def branch(problem: Problem, mean: float, num_alphas: int) -> Float[np.ndarray, "alphas 3"]:
    """Return alpha, mean and sd of the optima of D_alpha(p || q), each reached from the one before."""
    found, sd = [], 1.0 if mean else 3.0
    for alpha in np.linspace(0.005, 0.995, num_alphas):
        mean, sd = moments_of(problem.fit("alpha", mean, sd, alpha=float(alpha), tol=1e-12))
        found.append((alpha, mean, sd))
    return np.array(found)


def _jump(row: "partial[Row]", found: Float[np.ndarray, "alphas 3"]) -> Row:
    """Return up to which alpha there is an optimum on one mode."""
    alone = np.abs(found[:, 1]) > SAME
    last = float(found[alone, 0].max(initial=0.0))
    note = "followed from the exclusive optimum on that mode, in steps; above it q lies across both"
    return row("highest alpha with an optimum on one mode", value=last, ok=bool(alone[0] and not alone[-1]), note=note)


# --- learning rates -------------------------------------------------------------------------------------------------


def by_rate(problem: Problem, rates: Sequence[float], num_starts: int, num_steps: int, seed: int) -> Sweep:
    """Run SVI in NumPyro from q of width one at several means, by each learning rate, which stays as it is."""
    starts = np.linspace(-6.0, 6.0, num_starts)
    options = {"library": "numpyro", "num_steps": num_steps, "schedule": "constant"}
    fits = [
        problem.fit("svi", mean, 1.0, learning_rate=rate, seed=seed + index, **options)
        for rate in rates
        for index, mean in enumerate(starts)
    ]
    return Sweep.of(starts, np.array(rates), fits)


def _by_rate(row: "partial[Row]", problem: Problem, found: Sweep) -> Iterator[Row]:
    for rate, mean, kl in zip(found.others, found.mean, found.kl, strict=True):
        beyond = 0.5 * problem.apart
        ends = [int(each.sum()) for each in (mean < -beyond, np.abs(mean) <= beyond, mean > beyond)]
        note = f"SVI from width one: {ends[0]} on the left mode, {ends[1]} across both, {ends[2]} on the right one"
        yield row(f"KL(q || p), median, learning rate {rate:g}", value=float(np.median(kl)), unit="nats", note=note)


# --- the report -----------------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the picture and the table."""
    intro = (
        "The exclusive divergence KL(q || p), which the ELBO bounds, has a minimum on each of two modes that are far"
        " apart and a third across both; the inclusive one, KL(p || q), has one, at the moments; Minka's"
        " D_alpha(p || q) is between. The maps show by colour where a run from each start ends: L-BFGS on the exact"
        " bound, and SVI at learning rates that stay as they are. The white dots are the modes.\n\n"
        "With modes of unit width at -2 and 2 there is one minimum of the exclusive divergence, across both."
    )
    lines = [
        [
            row.variant,
            row.quantity,
            f"{number(row.value)} {row.unit}".strip(),
            number(row.reference),
            mark(row.ok),
            row.note,
        ]
        for row in rows
    ]
    picture = f"!{link('all fits, and which start leads where', PICTURE)}" if (folder / PICTURE).exists() else ""
    return "\n\n".join([intro, picture, table(["target", "quantity", "value", "reference", "holds", "note"], lines)])
