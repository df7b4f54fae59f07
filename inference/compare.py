"""`compare`: fits of one model to the same rows, side by side."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.comparison import Comparison, ComparisonRow, SiteRow, number
from latentzoo.inference.importance import GOOD_KHAT, GOOD_R_HAT, affordable
from latentzoo.inference.registry import Entry
from latentzoo.inference.relabel import ROUNDING, permutation, relabelled
from latentzoo.inference.result import Fit
from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError, choose

__all__ = ["Comparison", "ComparisonRow", "SiteRow", "compare"]

Draws = Mapping[str, np.ndarray]


def compare(
    fits: Mapping[str, Fit],
    *,
    reference: str | None = None,
    held_out: Any = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare fits of one model to the same rows: how good, how far from a reference, at what cost.

    The components of each fit are first matched with the reference's, whose labels mean nothing.

    Parameters
    ----------
    fits: the fits, by the names that they shall have in the table.
    reference: the name of the fit whose posterior the others are measured against; by default the first by NUTS. When
        there is none, there are no distances.
    held_out: `Data` that no fit has seen, for the log density; by default the fitted rows.
    num_draws, seed: of the draws from each posterior, fewer where the parameters are very many; the noise of a distance
        is about 1 / sqrt(num_draws).

    Raises
    ------
    UserError: there are no fits, a value is none, they are of different models or numbers of rows, or the reference is
        none of them.
    """
    contract.check_whole("num_draws", num_draws, least=2)
    contract.check_whole("seed", seed, least=0)
    entry = _check(fits)
    if reference is not None:
        choose(reference, fits, "fit")
    else:
        reference = next((name for name, fit in fits.items() if fit.method == "nuts"), None)
    held_out = None if held_out is None else entry.check(held_out)
    num_draws = affordable(max(contract.num_numbers(fit.params) for fit in fits.values()), num_draws)
    posteriors = _matched(fits, reference, entry, num_draws, seed)
    shared = next((fit.data for fit in fits.values() if fit.data is not None), None)
    measured = {name: _measure(fit, posteriors[name], shared, held_out, num_draws, seed) for name, fit in fits.items()}
    base = None if reference is None else measured[reference]
    sites = {name: tuple(_site_rows(name, one, base)) for name, one in measured.items()}
    rows = [_row(name, fits[name], measured[name], base, sites[name], held_out is not None) for name in fits]
    return Comparison(
        model=f"{entry.name}, {', '.join(f'{field}={value}' for field, value in vars(entry.spec).items())}",
        rows=tuple(rows),
        sites=tuple(row for name in fits for row in sites[name]),
        reference=reference,
        num_draws=num_draws,
        notes=tuple(_notes_on_all(fits, reference, base)),
    )


# --- what can be compared ---------------------------------------------------------------------------------------------


def _check(fits: Mapping[str, Fit]) -> Entry:
    """Return the one model of all fits."""
    if not isinstance(fits, Mapping):
        raise UserError(f"fits is a {type(fits).__name__}: give a dict from names to fits")
    if not fits:
        raise UserError("fits is empty: give at least one fit")
    for name, fit in fits.items():
        if not isinstance(name, str):
            raise UserError(f"{name!r} is a {type(name).__name__}: the name of a fit is a string")
        if not isinstance(fit, Fit):
            raise UserError(f"fits[{name!r}] is a {type(fit).__name__}: give what lz.fit or lz.load returns")
    (first, fit), *others = fits.items()
    for name, other in others:
        if (other.entry.name, other.entry.spec) != (fit.entry.name, fit.entry.spec):
            raise UserError(f"fits of different models: {first!r} is of {fit.entry}, {name!r} of {other.entry}")
    sizes = {name: contract.num_rows(fit.data) for name, fit in fits.items() if fit.data is not None}
    for name, size in sizes.items():
        known, rows = next(iter(sizes.items()))
        if size != rows:
            raise UserError(f"fits of different data: {known!r} is of {rows} rows, {name!r} of {size}")
    return fit.entry


def _notes_on_all(fits: Mapping[str, Fit], reference: str | None, base: "_Measured | None") -> list[str]:
    """Return what keeps the rows of the table from being comparable."""
    notes = []
    if _differ([fit.prior for fit in fits.values()]):
        notes.append("The fits have different priors: their posteriors and ELBOs are of different models.")
    if len({fit.objective for fit in fits.values()}) > 1:
        notes.append(
            "The column ELBO has log likelihoods of parameters at points, too: those do not compare with bounds."
        )
    if _differ([fit.data for fit in fits.values() if fit.data is not None]):
        notes.append("The fits are of different data, as many rows each: their ELBOs do not compare.")
    if reference is not None and base is not None and _doubts(fits[reference], base.diagnostics):
        notes.append("The reference is itself in doubt, and so are the distances from it: see its note.")
    return notes


def _differ(trees: list[Any]) -> bool:
    """Return whether any tree has other values than the first."""
    flat = [contract.leaves(tree) for tree in trees]
    return any(
        set(one) != set(flat[0]) or any(not np.array_equal(one[name], flat[0][name]) for name in one)
        for one in flat[1:]
    )


# --- what is measured -------------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """What was found of one fit: moments by site, how many independent draws they are worth, and its own numbers."""

    mean: Draws
    sd: Draws
    worth: float
    density: Mapping[str, float]
    diagnostics: Mapping[str, float]
    notes: tuple[str, ...]


def _matched(
    fits: Mapping[str, Fit], reference: str | None, entry: Entry, num_draws: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return draws of each fit, the components in the order of the reference's, or of the first fit's."""
    drawn = {name: _floats(fit.posterior(num_draws, seed)) for name, fit in fits.items()}
    first = reference or next(iter(fits))
    base, dims, plate = drawn[first], entry.dims(), entry.exchangeable(fits[first].prior)
    return {
        name: draws if draws is base else relabelled(draws, permutation(draws, base, dims, plate), dims, plate)
        for name, draws in drawn.items()
    }


def _floats(draws: Draws) -> dict[str, np.ndarray]:
    return {site: np.asarray(values, dtype=np.float64) for site, values in draws.items()}


def _measure(fit: Fit, draws: Draws, shared: Any, held_out: Any, num_draws: int, seed: int) -> _Measured:
    """Measure one fit; shared: the rows of another fit, for one that was loaded without its data."""
    notes, density, diagnostics = [], {}, {}
    fitted = shared if fit.data is None else fit.data
    if fit.data is None and fitted is not None:
        notes.append("loaded without its data, and measured at those of another fit")
    try:
        diagnostics = fit.diagnostics(num_draws, seed, data=fitted)
    except UserError as error:  # no data at all, or too few draws
        notes.append(f"no diagnostics: {error}")
    rows = fitted if held_out is None else held_out
    if rows is None:
        notes.append("no log density: it was loaded without its data; pass held_out=")
    else:
        density = fit.evaluate(rows, num_draws, seed)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = {site: np.asarray(values.mean(0)) for site, values in draws.items()}
        sd = {site: np.asarray(values.std(0, ddof=1)) for site, values in draws.items()}
    wild = [site for site in draws if not (np.isfinite(mean[site]).all() and np.isfinite(sd[site]).all())]
    if wild:
        notes.append(f"draws that are not finite: {', '.join(wild)}")
    worth = _worth(fit, num_draws, _known(diagnostics.get("ess_bulk")))
    return _Measured(mean, sd, worth, density, diagnostics, tuple(notes))


def _worth(fit: Fit, num_draws: int, ess: float | None) -> float:
    """Return how many independent draws the mean of these draws is worth.

    A sampler's mean over its chains has variance sd^2 / ess. Draws picked from them, each at most once where there are
    enough, add sd^2 (1 / num_draws - 1 / total).
    """
    if fit.chains is None or ess is None:
        return float(num_draws)
    chains, each = next(iter(fit.chains.draws.values())).shape[:2]
    picked = 1.0 / num_draws - (1.0 / (chains * each) if num_draws <= chains * each else 0.0)
    return 1.0 / (1.0 / max(ess, 1.0) + picked)


def _site_rows(name: str, of: _Measured, base: _Measured | None) -> list[SiteRow]:
    """Return a row for each coordinate; those of the reference itself have no distance."""
    found = []
    for site, means in of.mean.items():
        known = base is not None and site in base.mean
        for index in np.ndindex(means.shape):
            mean, sd = float(means[index]), float(of.sd[site][index])
            row = SiteRow(name, site, index, mean, sd, None, None, None, None)
            if base is not None and known:
                row = _against(row, float(base.mean[site][index]), float(base.sd[site][index]), base is of)
            found.append(row)
    return found


def _against(row: SiteRow, mean: float, sd: float, itself: bool) -> SiteRow:
    row = row._replace(reference_mean=mean, reference_sd=sd)
    if itself or not sd > ROUNDING * abs(mean):
        return row
    return row._replace(distance=(row.mean - mean) / sd, sd_ratio=row.sd / sd)


# --- one row of the table ---------------------------------------------------------------------------------------------


def _row(
    name: str, fit: Fit, of: _Measured, base: _Measured | None, sites: tuple[SiteRow, ...], held_out: bool
) -> ComparisonRow:
    distance, distance_error, sd_ratio = _summary(of, base, sites)
    error, num_rows = (_known(of.density.get(field)) for field in ("log_density_error", "num_rows"))
    return ComparisonRow(
        name=name,
        method=fit.method,
        library=fit.library,
        elbo=_known(fit.elbo),
        elbo_error=None if _known(fit.elbo) is None else _known(fit.elbo_error),
        log_density_per_row=_known(of.density.get("log_density_per_row")),
        log_density_error=None if error is None or not num_rows else error / num_rows,
        held_out=held_out,
        distance=distance,
        distance_error=distance_error,
        sd_ratio=sd_ratio,
        khat=_known(of.diagnostics.get("khat")),
        r_hat=_known(of.diagnostics.get("r_hat")),
        ess=_known(of.diagnostics.get("ess_bulk")),
        seconds=_known(fit.seconds),
        compile_seconds=_known(fit.compile_seconds),
        num_gradients=_known(fit.num_gradients),
        num_steps=fit.num_steps,
        converged=fit.converged,
        note="; ".join([*_doubts(fit, of.diagnostics), *of.notes]),
    )


def _summary(
    of: _Measured, base: _Measured | None, sites: tuple[SiteRow, ...]
) -> tuple[float | None, float | None, float | None]:
    """Return the distance from the reference, what noise alone would make it, and the ratio of the sds."""
    pairs = [(row.distance, row.sd_ratio) for row in sites if row.distance is not None and row.sd_ratio is not None]
    if base is None or not pairs or not np.isfinite(pairs).all():
        return None, None, None
    distance, ratio = np.array(pairs).T
    # The difference of two means of draws has variance sd^2 / worth + reference_sd^2 / its worth.
    noise = np.sqrt((ratio**2).mean() / of.worth + 1.0 / base.worth)
    with np.errstate(divide="ignore"):
        geometric = np.exp(np.log(ratio).mean())  # 0 where a fit is a point in some coordinate
    return float(np.sqrt((distance**2).mean())), float(noise), float(geometric)


def _doubts(fit: Fit, found: Mapping[str, float]) -> list[str]:
    """Return why a posterior may not be what it should be; NaN counts as bad."""
    doubts = [] if fit.converged else [f"not converged: {fit.reason}"]
    if "khat" in found and not found["khat"] < GOOD_KHAT:
        doubts.append(f"importance weights unreliable: {_not_below('k-hat', found['khat'], GOOD_KHAT)}")
    if "r_hat" in found and not found["r_hat"] < GOOD_R_HAT:
        doubts.append(f"the chains disagree: {_not_below('R-hat', found['r_hat'], GOOD_R_HAT)}")
    if found.get("num_divergences"):
        doubts.append(f"divergent transitions: {found['num_divergences']:,.0f}")
    return doubts


def _not_below(name: str, value: float, limit: float) -> str:
    return f"{name} is not known" if np.isnan(value) else f"{name} is {number(value, 4)}, not below {limit}"


def _known(value: float | None) -> float | None:
    """Return a number, None for NaN: what is not known is never a number."""
    return None if value is None or np.isnan(value) else float(value)
