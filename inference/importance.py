"""Pareto-smoothed importance weights: how far a posterior can be trusted, and leave-one-out densities (by ArviZ)."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

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
    found, khat = arviz().psislw(log_weights.copy())
    return np.asarray(found), np.asarray(khat)


def of_weights(log_ratio: Float[np.ndarray, "draws"]) -> dict[str, float]:
    """Return the Pareto shape of importance weights log p(data, draw) - log q(draw), and their effective number."""
    log_weights, khat = smoothed(log_ratio)
    return {"khat": float(khat), "ess": float(1.0 / np.exp(2.0 * log_weights).sum())}


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
