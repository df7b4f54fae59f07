"""A fit as ArviZ sees it."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference import importance
from latentzoo.inference.automatic import Arrays, backend
from latentzoo.inference.posterior import log_likelihoods, log_prior
from latentzoo.inference.relabel import aligned
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params

if TYPE_CHECKING:
    from latentzoo.inference.result import Fit, Restart

MOST_VALUES = 5_000_000  # draws times rows in a file: each has the log likelihood of the row and a new one in its place
DEEP_ROWS, DEEP_DRAWS = 1000, 100  # of a deep model, whose latent variables are those of rows
ANOTHER = 1.0  # nats below the best bound, from which on a restart is called another optimum


def affordable_draws(fit: "Fit") -> int:
    """Return how many draws of each chain, all together 100 to 1000, a file of a fit with its data should hold.

    Fewer where the parameters are many, and none where even the fewest would be too large.
    """
    if fit.is_deep:
        return DEEP_DRAWS
    if fit.is_point:
        return 1  # all are the same
    size = contract.num_numbers(fit.params)
    if importance.FEWEST * size > MOST_VALUES:
        return 0
    by_rows = max(MOST_VALUES // max(contract.num_rows(fit.data) or 0, 1), 100)
    every = min(by_rows, importance.affordable(size, 1000))
    return max(every // num_chains(fit), importance.FEWEST)


def num_chains(fit: "Fit") -> int:
    """Return how many chains the export of a fit has."""
    if fit.is_deep:
        return 1
    return len(at_the_optimum(fit)) if fit.chains is None else len(next(iter(fit.chains.draws.values())))


def at_the_optimum(fit: "Fit") -> list["Restart"]:
    """Return the restarts that ended where the best did, the best first: those in other optima are no posterior."""
    ranked = sorted(fit.restarts, key=lambda restart: restart.elbo, reverse=True)
    return [run for run in ranked if abs(fit.elbo - run.elbo) <= max(ANOTHER, 1e-6 * abs(fit.elbo))]


class Chain(NamedTuple):
    """Draws in their order, with what is known of each, (draws,)."""

    draws: Arrays
    stats: Arrays


def export(fit: "Fit", data: Any, num_draws: int, seed: int) -> Any:
    """Return the `InferenceData` of a fit: chains of a sampler, or of its restarts, with what they say of the data."""
    if fit.is_deep:
        return _of_rows(fit, data, num_draws, seed)
    chains = _of_sampler(fit, num_draws) if fit.chains is not None else _of_restarts(fit, num_draws, seed)
    dims = fit.entry.dims()
    draws = aligned([chain.draws for chain in chains], dims, fit.entry.exchangeable(fit.prior))
    stats = {name: np.stack([chain.stats[name] for chain in chains]) for name in chains[0].stats}
    flat = {site: values.reshape(-1, *values.shape[2:]) for site, values in draws.items()}
    shape = next(iter(draws.values())).shape[:2]
    rows = np.stack(list(log_likelihoods(fit.entry, data, fit.prior, fit.params, flat)))
    prior = log_prior(fit.entry, fit.runs_in, data, fit.prior, fit.params, flat)
    stats["lp"] = (prior + rows.sum(1)).reshape(shape)
    row_plate = fit.entry.row_plates[0] if fit.entry.row_plates else "rows"
    inference_data = importance.arviz().from_dict(
        posterior=draws,
        posterior_predictive=_predictive(fit, data, flat, shape, seed) or None,
        log_likelihood={"obs": rows.reshape(*shape, -1)} if fit.entry.has_rows else None,
        sample_stats=stats,
        observed_data=contract.leaves(data) or None,
        constant_data={f"prior_{name}": np.asarray(value) for name, value in contract.leaves(fit.prior).items()},
        dims={**{site: list(names) for site, names in dims.items()}, "obs": [row_plate]},
        attrs={**_attrs(fit), **_left_out(fit)},
    )
    return _with_trace(inference_data, fit)


def _of_rows(fit: "Fit", data: Any, num_draws: int, seed: int) -> Any:
    """Return what the guide of a deep model says of rows, their latent variables, and the rows."""
    total = contract.num_rows(data) or 0
    rows = np.sort(np.random.default_rng(seed).permutation(total)[:DEEP_ROWS])
    part = dataclasses.replace(fit, data=contract.take_rows(data, rows))
    draws = part.posterior(num_draws, seed, sites=part.row_sites)
    plate, prior = fit.entry.row_plates[0], contract.leaves(fit.prior)
    observed = {name: leaf for name, leaf in contract.leaves(part.data).items() if np.shape(leaf)[:1] == (len(rows),)}
    dims = {**fit.entry.dims(), **{name: (plate, *fit.entry.dims().get(name, ())[1:]) for name in observed}}
    inference_data = importance.arviz().from_dict(
        posterior={site: values[None] for site, values in draws.items()},
        observed_data=observed,
        constant_data={f"prior_{name}": np.asarray(value) for name, value in prior.items()},
        coords={plate: rows},
        dims={name: list(names) for name, names in dims.items()},
        attrs=_attrs(fit),
    )
    return _with_trace(inference_data, fit)


def _attrs(fit: "Fit") -> dict[str, str]:
    return {"inference_library": "latentzoo", "model": fit.entry.name, "method": fit.label}


def _with_trace(inference_data: Any, fit: "Fit") -> Any:
    """Add the group of the trace of the bound, which has no draws."""
    import xarray as xr

    trace = {name: ("step", column) for name, column in fit.trace._asdict().items() if name != "step"}
    inference_data.add_groups({"optimisation": xr.Dataset(trace, coords={"step": fit.trace.step})})
    return inference_data


def _left_out(fit: "Fit") -> dict[str, int]:
    """Return how many restarts ended in other optima, where any did."""
    number = len(fit.restarts) - len(at_the_optimum(fit))
    return {"restarts_in_other_optima": number} if number else {}


def _of_sampler(fit: "Fit", num_draws: int) -> list[Chain]:
    """Return the chains, thinned evenly where they are longer."""
    chains = fit.chains
    assert chains is not None
    count, length = next(iter(chains.draws.values())).shape[:2]
    kept = np.linspace(0, length - 1, min(num_draws, length)).round().astype(int)
    return [
        Chain(
            *({name: values[chain][kept] for name, values in table.items()} for table in (chains.draws, chains.stats))
        )
        for chain in range(count)
    ]


def _of_restarts(fit: "Fit", num_draws: int, seed: int) -> list[Chain]:
    """Return a chain of draws from the guide of each restart that ended at the best optimum, the best first."""
    chains = []
    for index, restart in enumerate(at_the_optimum(fit)):
        values, log_q = dataclasses.replace(fit, params=restart.params)._draws(num_draws, seed + index)
        chains.append(Chain(values, {"log_q": log_q}))
    return chains


def _predictive(fit: "Fit", data: Any, draws: Arrays, shape: tuple[int, ...], seed: int) -> Arrays:
    """Return new data in the place of what was observed in the plate of the rows, of each draw one."""
    rows = set(fit.entry.row_plates)
    wanted = [name for name, plates in fit.entry.plates().items() if name in data._fields and rows & set(plates)]
    if not wanted:
        return {}
    args = (contract.without_rows(data), fit.prior, Params(theta=fit.params.theta))
    num_rows = contract.num_rows(data) or 0
    drawn = backend(fit.runs_in).predictive(fit.entry.model.on(fit.runs_in), args, num_rows, draws, seed)
    return {name: drawn[name].reshape(*shape, *drawn[name].shape[1:]) for name in wanted}
