"""Importance weights: the evidence by importance sampling, and how far a posterior can be trusted.

Pareto-smoothed weights and leave-one-out densities are ArviZ's (Vehtari et al., 2024). Importance weights as objectives
are in `wake_sleep.py`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference import particles
from latentzoo.inference.automatic import Pair, backend
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Library

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

BATCH, ROWS = 100, 1000  # particles that are drawn, and rows that are weighed, at once
FEWEST = 25  # draws: a Pareto tail is fitted to the largest fifth of them
MOST_NUMBERS = 1_000_000  # in the draws of a posterior: Gammas, of which Dirichlets are made, are slow to draw
EQUAL = 1e-8  # nats: log weights that differ by no more are the same
GOOD_KHAT = 0.7  # below it, importance weights can be relied on (Vehtari et al., 2024)
GOOD_R_HAT = 1.01  # below it, chains agree (Vehtari et al., 2021)


def arviz() -> Any:
    """Return ArviZ, which 0.23 does not import without announcing its successor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    return az


def affordable(size: int, num_draws: int) -> int:
    """Return how many draws, of so many that are wanted, to take of a posterior of so many numbers."""
    return min(num_draws, max(MOST_NUMBERS // max(size, 1), FEWEST))


def smoothed(log_weights: Float[np.ndarray, "... draws"]) -> tuple[np.ndarray, np.ndarray]:
    """Return Pareto-smoothed log weights that sum to one over the last axis, and their shapes k-hat.

    Weights that are all the same, but for rounding, need no smoothing: their k-hat is -inf.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if (np.ptp(log_weights, axis=-1) < EQUAL).all():
        return np.full_like(log_weights, -np.log(log_weights.shape[-1])), np.full(log_weights.shape[:-1], -np.inf)
    with np.errstate(over="ignore"):  # of weights that are then divided by
        found, khat = arviz().psislw(log_weights.copy())
    return np.asarray(found), np.asarray(khat)


def of_weights(log_ratio: Float[np.ndarray, "draws"]) -> dict[str, float]:
    """Return the Pareto shape of importance weights log p(data, draw) - log q(draw), and their effective number."""
    log_weights, khat = smoothed(log_ratio)
    return {"khat": float(khat), "ess": float(1.0 / np.exp(2.0 * log_weights).sum())}


class Evidence(NamedTuple):
    """The log evidence of data, estimated from below by the importance-weighted bound L_K.

    log_evidence: L_K, in nats; over rows that have weights of their own, its sum. Its expectation is at most log p(x).
    error: the standard error of L_K, by the delta method; it knows nothing of the bias, which is what is missing.
    rows: L_K of each row, or of all data together, (1,).
    ess, khat: of the weights of each row: how many draws of the posterior they are worth, and their Pareto shape; from
        0.7 on, neither L_K nor its error can be trusted.
    """

    log_evidence: float
    error: float
    rows: Float[np.ndarray, "rows"]
    ess: Float[np.ndarray, "rows"]
    khat: Float[np.ndarray, "rows"]


def evidence(
    zoo: "Entry",
    data: Any,
    params: Params,
    *,
    prior: Any = None,
    proposal: str | float = "guide",
    num_particles: int = 1000,
    library: Library = "numpyro",
    seed: int = 0,
) -> Evidence:
    """Estimate log p(data) at some parameters, such as those of a fit, by importance sampling.

    Parameters
    ----------
    proposal: what latent variables are drawn from: "guide"; "prior", the model with nothing observed; or a number, by
        which the scales of the guide are multiplied (its sites must be normal).
    num_particles: K, draws for each row.

    Raises
    ------
    UserError: the model or the guide has sites to be enumerated; a proposal that there is not; a wide guide of other
        families than the normal.
    """
    contract.check_whole("num_particles", num_particles, least=2)
    contract.check_whole("seed", seed, least=0)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior, data)
    params = zoo.check_params(params)
    guide = _proposal(zoo, proposal, library)
    pair = Pair(zoo.model.on(library), guide, (data, prior, params), {}, zoo.model_room.MAX_PLATE_NESTING)
    parts = [
        _log_weights(
            pair._replace(args=(part, prior, params)), zoo.row_plates, params, num_particles, library, part_seed
        )
        for part_seed, part in enumerate(_parts(zoo, pair, library), seed)
    ]
    return of_log_weights(np.concatenate(parts, axis=1))


def of_log_weights(log_weights: Float[np.ndarray, "particles rows"]) -> Evidence:
    """Return the evidence that log weights log p(x, z_k) - log q(z_k) give, row by row."""
    from scipy.special import logsumexp

    count = len(log_weights)
    rows = logsumexp(log_weights, axis=0) - np.log(count)
    relative = np.exp(log_weights - rows)  # their mean is one
    errors = relative.std(axis=0, ddof=1) / np.sqrt(count)
    ess = count**2 / (relative**2).sum(0)
    enough = count >= FEWEST
    khat = smoothed(log_weights.T)[1] if enough else np.full(len(rows), np.nan)
    return Evidence(float(rows.sum()), float(np.sqrt((errors**2).sum())), rows, ess, khat)


def _proposal(zoo: "Entry", proposal: str | float, library: Library) -> Callable[..., Any]:
    """Return the program that latent variables are drawn from."""
    home = particles.home(library)
    if proposal == "guide":
        return zoo.guide.on(library)
    if proposal == "prior":
        return home.unobserved(zoo.model.on(library), zoo.Data._fields)
    if isinstance(proposal, str):
        raise UserError(f"proposal is {proposal!r}: give 'guide', 'prior', or what to multiply the guide's scales by")
    contract.check_number("proposal", proposal, above=0.0)
    return home.widened(zoo.guide.on(library), float(proposal))


def _parts(zoo: "Entry", pair: Pair, library: Library) -> Iterator[Any]:
    """Yield the data in parts whose weights fit in memory, where every latent site belongs to a row."""
    data, _, params = pair.args
    with backend(library).precision():
        sites = backend(library).latents(pair, contract.leaves(params), {}, seed=0).values()
    free = any(getattr(params.phi, field) is not None for field in zoo.guide_room.LOCAL)
    if free or any(not set(site.plates) & set(zoo.row_plates) for site in sites):
        yield data
        return
    for start in range(0, contract.num_rows(data) or 0, ROWS):
        yield contract.take_rows(data, slice(start, start + ROWS))


def _log_weights(
    pair: Pair, rows: tuple[str, ...], params: Params, num_particles: int, library: Library, seed: int
) -> Float[np.ndarray, "particles rows"]:
    """Return log p(data, z_k) - log q(z_k); of one column where all rows share a latent site."""
    plan = particles.Plan(pair, min(num_particles, BATCH), rows)
    num_draws = -(-num_particles // plan.num_particles)
    with backend(library).precision():
        found = particles.home(library).log_weights(plan, contract.leaves(params), num_draws, seed)
    return found[:num_particles]


def of_chains(draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the worst diagnostics of a sampler over all numbers that it drew; draws have axes (chain, draw, ...).

    A number that never varies, such as the weight of a single component, has none; nor has R-hat with one chain.
    """
    az = arviz()
    posterior = az.convert_to_dataset({site: values for site, values in draws.items() if np.ptp(values)})
    several = len(next(iter(draws.values()))) > 1
    found = {
        "r_hat": _worst(az.rhat(posterior), np.nanmax) if several else np.nan,
        "ess_bulk": _worst(az.ess(posterior), np.nanmin),
        "ess_tail": _worst(az.ess(posterior, method="tail"), np.nanmin),
    }
    return {**found, "num_divergences": float(np.sum(stats["diverging"]))}


def _worst(diagnostic: Any, pick: Callable[[np.ndarray], float]) -> float:
    """Return the worst of a diagnostic over all sites, NaN where it has none."""
    each = np.concatenate([values.values.ravel() for values in diagnostic.values()])
    return float(pick(each)) if np.isfinite(each).any() else np.nan


def loo(rows: Float[np.ndarray, "draws rows"], log_ratio: Float[np.ndarray, "draws"]) -> Any:
    """Return the leave-one-out density as ArviZ's `ELPDData`, with its pointwise values.

    rows: log p(row | draw). log_ratio: log p(data, draw) - log q(draw), up to a constant; 0 for draws of the posterior.
    The weights of a draw without row n are p(data, draw) / (q(draw) p(row n | draw)).
    """
    import xarray as xr
    from arviz.stats.stats_utils import ELPDData
    from scipy.special import logsumexp

    log_weights, khat = smoothed(log_ratio - rows.T)
    pointwise = logsumexp(log_weights + rows.T, axis=1)
    of_all = logsumexp(smoothed(log_ratio)[0] + rows.T, axis=1)
    good = min(1.0 - 1.0 / np.log10(len(log_ratio)), GOOD_KHAT)
    values = {
        "elpd_loo": pointwise.sum(),
        "se": np.sqrt(pointwise.size * pointwise.var()),
        "p_loo": of_all.sum() - pointwise.sum(),
        "n_samples": len(log_ratio),
        "n_data_points": pointwise.size,
        "warning": not bool((khat <= good).all()),  # k-hat may be NaN
        "loo_i": xr.DataArray(pointwise, dims=["row"], name="loo_i"),
        "pareto_k": xr.DataArray(khat, dims=["row"], name="pareto_shape"),
        "scale": "log",
        "good_k": good,
    }
    return ELPDData(data=list(values.values()), index=list(values))
