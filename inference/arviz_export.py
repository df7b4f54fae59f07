"""A fit as ArviZ sees it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.models.language import contract

if TYPE_CHECKING:
    from latentzoo.inference.result import Fit

MOST_LIKELIHOODS = 20_000_000  # draws times rows in a file: 160 MB


def affordable_draws(num_rows: int) -> int:
    """Return how many draws, of 100 to 1000, a file should hold: each has the log likelihood of every row."""
    return min(max(MOST_LIKELIHOODS // max(num_rows, 1), 100), 1000)


def export(fit: "Fit", data: Any, num_draws: int, seed: int) -> Any:
    """Return the `InferenceData` of a fit: one chain of draws from q, with its log likelihood at the data."""
    import warnings

    with warnings.catch_warnings():
        # ArviZ 0.23 announces its successor whenever it is imported.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    import xarray as xr

    draws = fit.posterior(num_draws, seed)
    rows = [fit.log_likelihood(data, {site: draw[i] for site, draw in draws.items()}) for i in range(num_draws)]
    plates = fit.entry.plates()
    row_plate = fit.entry.row_plates[0] if fit.entry.row_plates else "rows"
    dims = {name: [*plates.get(name, ())] for name in (*draws, *data._fields)}
    inference_data = az.from_dict(
        posterior={site: value[None] for site, value in draws.items()},
        log_likelihood={"obs": np.stack(rows)[None]},
        observed_data=contract.leaves(data),
        constant_data={f"prior_{name}": np.asarray(value) for name, value in contract.leaves(fit.prior).items()},
        dims={**dims, "obs": [row_plate]},
        attrs={"inference_library": "latentzoo", "model": fit.entry.name, "method": fit.method},
    )
    trace = xr.Dataset(
        {"elbo": ("step", fit.elbo_trace), "seconds": ("step", fit.seconds_trace)},
        coords={"step": np.arange(1, fit.num_steps + 1)},
    )
    inference_data.add_groups({"optimisation": trace})
    return inference_data
