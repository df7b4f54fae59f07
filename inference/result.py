"""What every method returns: the fitted parameters, how they were reached, and what can be done with them."""

import dataclasses
import functools
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.automatic import num_draws
from latentzoo.inference.posterior import (
    Draws,
    GuideDraws,
    OwnGuide,
    log_joint,
    log_likelihood,
    log_likelihoods,
    log_prior,
)
from latentzoo.inference.registry import Entry
from latentzoo.inference.run import Trace, label
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.files import atomic
from latentzoo.models.language.ppl import Library

if TYPE_CHECKING:
    from latentzoo.inference.mcmc import Chains

FORMAT = 2  # of the files that hold a fit
GROUPS = 10  # of draws, whose scatter tells the error of a density


class Restart(NamedTuple):
    """How one restart ended."""

    elbo: float
    converged: bool
    num_steps: int
    params: Params


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes
    ----------
    entry, prior, params: the model, its hyperparameters, and its parameters where the bound was highest; a sampler has
        point parameters only, and the phi of a guide of your own is a dict by the names of its `param` sites.
    method, library, seed: how it was fitted; library is None for our own closed forms.
    elbo: the bound at `params`, in nats, every constant kept: hand-derived, or for a guide of your own estimated by
        draws, with the discrete sites summed out. A sampler has none: NaN.
    elbo_error: its Monte Carlo standard error; 0 where it is exact.
    trace: the bound, the seconds and the gradient evaluations at each step; SVI's bounds are noisy means over blocks.
    compile_seconds: what JAX took to compile, which no other time contains.
    converged, reason: whether the run ended by itself, and why it ended.
    restarts: how every restart ended; this is the best of them.
    versions: of Python and of the libraries, and the machine.
    guide: a guide of your own, where SVI was given one.
    chains: the draws of a sampler.
    state: what SVI needs to go on from here.
    history: the parameters of every step, where they were asked for.
    data: what was fitted; None after `load`, unless it was given them.
    """

    entry: Entry
    prior: Any
    params: Params
    method: str
    library: Library | None
    seed: int
    elbo: float
    trace: Trace
    compile_seconds: float
    converged: bool
    reason: str
    restarts: tuple[Restart, ...]
    versions: Mapping[str, str]
    elbo_error: float = 0.0
    guide: OwnGuide | None = None
    chains: "Chains | None" = None
    state: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    history: tuple[Params, ...] = ()
    data: Any = None

    @property
    def elbo_trace(self) -> np.ndarray:
        """The bound at each step, in nats."""
        return self.trace.elbo

    @property
    def seconds_trace(self) -> np.ndarray:
        """The seconds since the start at each step, compilation left out."""
        return self.trace.seconds

    @property
    def num_steps(self) -> int:
        """The number of steps that were taken."""
        return int(self.trace.step[-1])

    @property
    def seconds(self) -> float:
        """The seconds that the run took, compilation left out."""
        return float(self.trace.seconds[-1])

    @property
    def num_gradients(self) -> float:
        """The evaluations of a gradient, or E steps, that the run took: in passes over all rows."""
        return float(self.trace.gradients[-1])

    @property
    def label(self) -> str:
        """The method, with the library where there is a choice: "cavi", "svi-pyro"."""
        return label(self.method, self.library)

    @property
    def runs_in(self) -> Library:
        """The library that draws are made in: NumPyro where the method needed none."""
        return self.library or "numpyro"

    def __repr__(self) -> str:
        state = "converged" if self.converged else f"not converged ({self.reason})"
        bound = "" if np.isnan(self.elbo) else f"ELBO {self.elbo:.6f} after "
        return f"<Fit of {self.entry.name} by {self.label}: {bound}{self.num_steps} steps, {state}>"

    # --- draws --------------------------------------------------------------------------------------------------------

    def posterior(
        self, num_draws: int = 1000, seed: int = 0, sites: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Return draws from q, or of the sampler's, by site, the draws along the first axis.

        sites: by default the global ones; those inside the plate of the rows are as many as the data, and by name.
        """
        contract.check_whole("num_draws", num_draws)
        return self._draws(num_draws, seed, sites).values

    def _draws(self, num_draws: int, seed: int, sites: tuple[str, ...] | None = None) -> Draws:
        """Return draws with their log density; of a sampler log q is not known."""
        if self.chains is not None:
            return self._of_chains(self.chains, num_draws, seed, sites)
        whole = sites or (self.guide and self.guide.needs_data)
        data = self._data(None) if whole else contract.take_rows(self._data_or_default(), slice(0, 1))
        if sites is None:
            return self._source.draws(data, self._source.global_sites(data), num_draws, seed)
        known = self._source.plates(data)
        for site in sites:
            choose(site, known, "latent site")
        return self._source.draws(data, sites, num_draws, seed)

    @staticmethod
    def _of_chains(chains: "Chains", num_draws: int, seed: int, sites: tuple[str, ...] | None) -> Draws:
        """Pick draws of all chains at random, each at most once where there are enough."""
        for site in sites or ():
            choose(site, chains.draws, "site of the sampler")
        merged = {site: values.reshape(-1, *values.shape[2:]) for site, values in chains.draws.items()}
        total = len(next(iter(merged.values())))
        chosen = np.random.default_rng(seed).choice(total, num_draws, replace=num_draws > total)
        return Draws({site: merged[site][chosen] for site in sites or merged}, np.full(num_draws, np.nan))

    @functools.cached_property
    def _source(self) -> GuideDraws:
        return GuideDraws(self.entry, self.runs_in, self.guide, self.prior, self.params)

    def log_joint(self, draws: Mapping[str, np.ndarray], data: Any = None) -> np.ndarray:
        """Return log p(data, globals) at each draw of the global latent variables, local ones summed out."""
        return log_joint(self.entry, self.runs_in, self._data(data), self.prior, self.params, dict(draws))

    # --- what follows from them ---------------------------------------------------------------------------------------

    def predict(self, data: Any = None, num_draws: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
        """Return what the model says of each row, by default of the fitted data: for a mixture, responsibilities.

        Under the model's own guide in closed form; else the mean over draws.
        """
        data, form = self._data(data), self.entry.closed_form
        if self.chains is None and self.guide is None:
            return form.predict(self.params, data, self.prior, self.entry.spec)
        return form.predict_at(self.posterior(num_draws, seed), self.params, data, self.prior, self.entry.spec)

    def evaluate(self, data: Any = None, num_draws: int = 200, seed: int = 0) -> dict[str, float]:
        """Return the log predictive density of data, in nats: log mean_draws p(row | draw), summed over rows.

        By draws, so that every method is measured alike; `log_density_error` is its Monte Carlo standard error.
        """
        contract.check_whole("num_draws", num_draws, least=2)
        data, draws = self._data(data), self.posterior(num_draws, seed)
        groups = np.array_split(np.arange(num_draws), min(GROUPS, num_draws))
        each = np.stack([self._log_density(data, {s: d[group] for s, d in draws.items()}) for group in groups])
        sizes = np.array([len(group) for group in groups])
        rows = np.logaddexp.reduce(each + np.log(sizes / num_draws)[:, None])
        error = each.sum(1).std(ddof=1) / np.sqrt(len(groups))
        return {
            "log_density": float(rows.sum()),
            "log_density_per_row": float(rows.mean()),
            "log_density_error": float(error),
            "num_rows": float(len(rows)),
        }

    def _log_density(self, data: Any, draws: dict[str, np.ndarray]) -> np.ndarray:
        """Return the log of the mean density of each row over some draws."""
        total = np.full(contract.num_rows(data) or 0, -np.inf)
        for rows in log_likelihoods(self.entry, data, self.prior, self.params, draws):
            total = np.logaddexp(total, rows)
        return total - np.log(num_draws(draws))

    def log_likelihood(self, data: Any, latents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return log p(row | globals) of each row at one draw of the global latent variables, local ones summed out."""
        return log_likelihood(self.entry, self.entry.check(data), self.prior, self.params, latents)

    def diagnostics(self, num_draws: int = 1000, seed: int = 0, data: Any = None) -> dict[str, float]:
        """Return how far the posterior can be trusted.

        Of a guide: `khat`, the Pareto shape of its importance weights, which should be below 0.7, and `ess`, the draws
        from the true posterior that its draws are worth. Of a sampler, over all numbers it drew: the largest `r_hat`,
        the smallest `ess_bulk` and `ess_tail`, and `num_divergences`.
        """
        from latentzoo.inference import importance

        if self.chains is not None:
            return importance.of_chains(self.chains.draws, self.chains.stats)
        contract.check_whole("num_draws", num_draws, least=importance.FEWEST)
        draws = self._draws(num_draws, seed)
        if not any(np.ptp(values, axis=0).any() for values in draws.values.values()):
            return {"khat": np.inf, "ess": 0.0}  # a point, such as AutoDelta's, is no approximation of a posterior
        return importance.of_weights(self.log_joint(draws.values, data) - draws.log_q)

    def loo(self, num_draws: int = 1000, seed: int = 0, data: Any = None) -> Any:
        """Return the leave-one-out log predictive density, by Pareto-smoothed importance weights, as ArviZ has it.

        A guide is not the posterior: its draws are weighed by p(data, draw) / q(draw) (Magnusson et al., 2019), which
        `arviz.loo` on `to_arviz` cannot know of. `arviz.compare` takes a dict of these.
        """
        from latentzoo.inference import importance

        contract.check_whole("num_draws", num_draws, least=importance.FEWEST)
        data = self._data(data)
        draws = self._draws(num_draws, seed)
        rows = np.stack(list(log_likelihoods(self.entry, data, self.prior, self.params, draws.values)))
        if self.chains is not None:
            return importance.loo(rows, np.zeros(num_draws))
        prior = log_prior(self.entry, self.runs_in, data, self.prior, self.params, draws.values)
        return importance.loo(rows, prior + rows.sum(1) - draws.log_q)

    def to_arviz(self, data: Any = None, num_draws: int = 1000, seed: int = 0) -> Any:
        """Return an ArviZ `InferenceData` of so many draws a chain.

        The chains are those of the sampler, or one for each restart that ended at the best optimum (within a nat), the
        best first, its components matched to the best; attrs tell how many ended elsewhere. Groups: posterior,
        posterior_predictive, log_likelihood, sample_stats (lp = log p(data, draw), log_q; what the sampler tells),
        observed_data, constant_data, and optimisation: the trace of the bound, which has no draws. Dimensions bear the
        names of the plates.
        """
        from latentzoo.inference.arviz_export import export

        contract.check_whole("num_draws", num_draws)
        return export(self, self._data(data), num_draws, seed)

    def _data(self, data: Any) -> Any:
        data = self.data if data is None else data
        if data is None:
            raise UserError("this fit was loaded without its data: pass data=, or lz.load(path, data=...)")
        return self.entry.check(data)

    def _data_or_default(self) -> Any:
        """Return some rows: the global part of the model's guide, and an AutoGuide, do not depend on them."""
        return self.data if self.data is not None else self.entry.simulate(num_rows=1, prior=self.prior)[0]

    # --- files --------------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Return all that is not an array, as JSON can hold it."""
        return {
            "model": self.entry.name,
            "spec": dataclasses.asdict(self.entry.spec),
            "method": self.method,
            "library": self.library,
            "guide": None if self.guide is None else self.guide.name,
            "seed": self.seed,
            "elbo": None if np.isnan(self.elbo) else self.elbo,
            "elbo_error": self.elbo_error,
            "num_steps": self.num_steps,
            "num_gradients": self.num_gradients,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "converged": self.converged,
            "reason": self.reason,
            "restarts": [
                {"elbo": run.elbo, "converged": run.converged, "num_steps": run.num_steps} for run in self.restarts
            ],
            "versions": dict(self.versions),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit, without its data and history, to one file: NumPy's .npz with its description in JSON.

        The file appears whole or not at all. `latentzoo.load` reads it back.
        """
        path = Path(path)
        arrays = {**contract.leaves(self.params), **contract.leaves(self.prior, "prior")}
        arrays |= contract.leaves(self.trace, "trace")
        for index, restart in enumerate(self.restarts):
            arrays |= {f"restarts.{index}.{name}": leaf for name, leaf in contract.leaves(restart.params).items()}
        if self.chains is not None:
            arrays |= contract.leaves(self.chains.draws, "chains.draws")
            arrays |= contract.leaves(self.chains.stats, "chains.stats")
        arrays |= {f"state.{name}": array for name, array in self.state.items()}
        arrays["summary"] = json.dumps({"format": FORMAT, **self.summary()})
        with atomic(path) as file:
            np.savez_compressed(file, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
        return path


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed, and the machine."""
    libraries = ("latentzoo", "numpy", "scipy", "jax", "numpyro", "optax", "torch", "pyro-ppl", "funsor", "arviz")
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for library in libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
