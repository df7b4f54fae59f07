"""The part of the report on gradient estimators: the names of what is measured, and the tables made of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from latentzoo.benchmarks.report import link, mark, number, table
from latentzoo.benchmarks.results import Row

NORMAL, PCA, EARTHQUAKES = "normal", "probabilistic_pca", "earthquakes"
ONE_HOT, SIGNAL, EVIDENCE = "one_hot", "signal", "evidence"

BIAS = "bias"
EXACT = "exact expectation of the gradient"
VARIANCE = "variance"
TIME = "time of a gradient"
COST = "time x variance"
BY_MEAN = "variance by m, times particles"
CROSSING = "variance by m of total and of path at s = 1/sqrt 2"
SHRINKS = "bias falls"
RATIO = "signal-to-noise ratio"
SLOPE = "slope of log signal-to-noise in log K"
GAP = "L_K - log p(x)"
ESS = "effective number of draws"
KHAT = "Pareto k-hat"

Found = Mapping[tuple[str, str, str, str], Row]  # by variant, library, data and quantity

INTRO = (
    "An estimator is run as a step of SVI runs it: NumPyro in a compiled loop, Pyro step by step. Exact gradients come"
    " from the closed forms, from a sum over the categories, or from quadrature of the formulas, never from an"
    " estimator.\n\n"
    "A bias is told in lengths of the exact gradient, the noise of the mean taken off. The z-score is the largest over"
    " the numbers of the gradient, with what it may be: an unbiased estimator exceeds that once in a million runs."
    " Beside it stands the bias of one number that would have been seen with probability 0.99. Few draws, as Pyro's in"
    " a quick bench, make no claim: z-scores of skewed draws exceed their quantiles too often. An expectation by"
    " quadrature nodes is exact, up to rounding. Relaxed and wake-sleep estimators are biased by design. The variance"
    " is the trace over all parameters; time x variance, in µs, is what a unit of precision costs."
)
TITLES = {
    NORMAL: "p = Normal(0, 1) and q = Normal(1, s²), exact at quadrature nodes",
    PCA: "Probabilistic PCA, q(latent[n]) free for each row",
    EARTHQUAKES: "Earthquakes: assignments enumerated, rates Gammas",
    ONE_HOT: "One-hot categories seen through a convex cost",
    SIGNAL: "Signal and noise of the gradient of L_K, one latent coordinate",
    EVIDENCE: "L_K by proposal, the guide 0.6 times as wide as the posterior",
}


def picture(problem: str) -> Path:
    """Return the path of the picture of a problem, in the folder of the bench."""
    return Path("estimators") / f"{problem}.png"


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return the Markdown of all problems."""
    parts = [INTRO]
    for problem, title in TITLES.items():
        own = [row for row in rows if row.entry == problem]
        if own:
            parts += [f"### {problem}: {title}", *_tables(problem, own)]
            if (folder / picture(problem)).exists():
                parts.append(f"!{link(f'estimators on {problem}', picture(problem))}")
    return "\n\n".join(part for part in parts if part)


def _tables(problem: str, rows: Sequence[Row]) -> list[str]:
    found = {(row.variant, row.library, row.data, row.quantity): row for row in rows}
    makers: dict[str, list[Callable[[Found], str]]] = {
        NORMAL: [_by_scale, _expectations, _claims],
        SIGNAL: [_ratios, _costs, _claims],
        EVIDENCE: [_evidence],
    }
    return [make(found) for make in makers.get(problem, [_costs, _expectations, _claims])]


def _of(found: Found, quantity: str) -> list[Row]:
    return [row for (*_, name), row in found.items() if name == quantity]


def _costs(found: Found) -> str:
    """Return a line for each estimator, number of particles and library."""
    lines = []
    for row in _of(found, BIAS):
        if row.data:
            continue
        variance, time, cost = (found[row.variant, row.library, row.data, name] for name in (VARIANCE, TIME, COST))
        about = f"{number(variance.value)} ± {_short(variance.error)}"
        lines.append(
            [
                row.variant,
                row.library,
                _short(row.value),
                _z(row),
                _seen(row),
                about,
                _short(time.value),
                _short(cost.value),
                mark(row.ok),
            ]
        )
    head = ["estimator", "library", "bias", "largest z (allowed)", "would be seen", "variance", "µs", "µs x variance"]
    return table([*head, "holds"], lines)


def _z(row: Row) -> str:
    score = _short(row.error)
    return score if row.tolerance is None else f"{score} ({_short(row.tolerance)})"


def _seen(row: Row) -> str:
    """Return the bias that would have been seen, from the note of the row."""
    _, found, rest = row.note.partition("a bias of ")
    return rest.split()[0] if found else ""


def _expectations(found: Found) -> str:
    """Return how far exact expectations are from exact gradients."""
    lines = [
        [row.variant, row.library, row.data or "all", f"{row.error:.1e} ({row.tolerance:.0e})", row.note, mark(row.ok)]
        for row in _of(found, EXACT)
        if row.error is not None
    ]
    return table(["estimator", "library", "of", "expectation off by", "how", "holds"], lines) if lines else ""


def _claims(found: Found) -> str:
    """Return the claims that compare several rows."""
    lines = [
        [row.quantity, row.variant, row.library, number(row.value), number(row.reference), row.note, mark(row.ok)]
        for quantity in (CROSSING, SHRINKS, SLOPE)
        for row in _of(found, quantity)
    ]
    return table(["claim", "of", "library", "value", "reference", "note", "holds"], lines) if lines else ""


def _by_scale(found: Found) -> str:
    """Return the variance by m at each s."""
    rows = _of(found, BY_MEAN)
    scales = list(dict.fromkeys(row.data for row in rows))
    scales.sort(key=lambda name: float(name.removeprefix("s = ")))
    names = dict.fromkeys((row.variant, row.library) for row in rows)
    lines = [
        [
            *name,
            *(
                _short(found[*name, scale, BY_MEAN].value) if (*name, scale, BY_MEAN) in found else ""
                for scale in scales
            ),
        ]
        for name in names
    ]
    return table([BY_MEAN, "library", *scales], lines)


def _ratios(found: Found) -> str:
    lines = [[row.variant, row.library, _short(row.value)] for row in _of(found, RATIO)]
    return table(["estimator", "library", RATIO], lines)


def _evidence(found: Found) -> str:
    """Return a line for each proposal, number of particles and library."""
    lines = []
    for row in _of(found, GAP):
        weights = [found.get((row.variant, row.library, row.data, name)) for name in (ESS, KHAT)]
        cells = ["" if each is None else _short(each.value) for each in weights]
        off = f"{_short(row.error)} ({_short(row.tolerance)})"
        lines.append(
            [row.variant, row.library, _short(row.value), _short(row.reference), off, *cells, row.note, mark(row.ok)]
        )
    head = ["proposal", "library", GAP, "its expectation", "off by (allowed)", ESS, KHAT, "note", "holds"]
    return table(head, lines)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
