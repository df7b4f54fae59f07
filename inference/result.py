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
    has_log_predictive,
    log_joint,
    log_likelihood,
    log_likelihoods,
    log_predictive,
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
DENSITY_DRAWS = 200  # of a density that is in no closed form
GROUPS = 10  # of draws, whose scatter tells the error of a density


class Restart(NamedTuple):
    """How one restart ended.

    flaw: why its parameters are no honest optimum, where the model can tell: "component 2 has collapsed ...".
    validation: the log predictive density of the validation data, where there are any.
    """

    elbo: float
    converged: bool
    num_steps: int
    params: Params
    flaw: str = ""
    validation: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes
    ----------
    entry, prior, params: the model, its hyperparameters, and its parameters where the bound was highest; a sampler has
        point parameters only, and the phi of a guide of your own is a dict by the names of its `param` sites.
    method, library, seed: how it was fitted; library is None for our own closed forms.
    elbo: the bound at `params`, in nats, every constant kept: hand-derived, or for a guide of your own estimated by
        draws, with the discrete sites summed out. Of parameters at points it is the log likelihood, for "map" with the
        log prior added. A sampler has none: NaN.
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
    shared: after `load`, what all rows of the data had in common, such as a vocabulary: data without rows.
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
    shared: Any = None

    @property
    def like(self) -> Any:
        """Data that others can be read like: `zoo.read(path, like=fit.like)`."""
        return self.shared if self.data is None else self.data

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

    @property
    def objective(self) -> str:
        """What `elbo` is: the log likelihood or the penalised one of parameters at points, else the ELBO."""
        return self.entry.objective(self.method if self.method in self.entry.methods else self.entry.methods[0])

    @property
    def is_point(self) -> bool:
        """Whether the parameters of the model are held at points, so that there is no posterior of them."""
        return self.params.theta is not None and self.chains is None and self.guide is None

    def __repr__(self) -> str:
        state = "converged" if self.converged else f"not converged ({self.reason})"
        bound = "" if np.isnan(self.elbo) else f"{self.objective} {self.elbo:.6f} after "
        return f"<Fit of {self.entry.name} by {self.label}: {bound}{self.num_steps} steps, {state}>"

    # --- draws --------------------------------------------------------------------------------------------------------

    def posterior(
        self, num_draws: int = 1000, seed: int = 0, sites: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Return draws from q, or of the sampler's, by site, the draws along the first axis.

        Parameters that are held at points are the same in every draw.

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
        points = self.entry.points(data, self.prior, self.params, self.runs_in)
        held = {site: np.broadcast_to(value, (num_draws, *value.shape)) for site, value in points.items()}
        known = {**held, **self._source.plates(data)}
        for site in sites or ():
            choose(site, known, "latent site")
        wanted = (*held, *self._source.global_sites(data)) if sites is None else sites
        drawn = self._source.draws(data, [site for site in wanted if site not in held], num_draws, seed)
        return Draws({site: held[site] if site in held else drawn.values[site] for site in wanted}, drawn.log_q)

    @staticmethod
    def _of_chains(chains: "Chains", num_draws: int, seed: int, sites: tuple[str, ...] | None) -> Draws:
        """Pick draws of all chains at random, each at most once where there are enough."""
        for site in sites or ():
            choose(site, chains.draws, "site of the sampler")
        merged = {site: values.reshape(-1, *values.shape[2:]) for site, values in chains.draws.items()}
        total = len(next(iter(merged.values())))
        chosen = np.random.default_rng(seed).choice(total, num_draws, replace=num_draws > total)
        return Draws({site: merged[site][chosen] for site in sites or merged}, np.full(num_draws, np.nan))

    @property
    def row_sites(self) -> tuple[str, ...]:
        """The latent variables of each row, which the guide draws."""
        plates = self._source.plates(self._data(None))
        return tuple(site for site, names in plates.items() if set(names) & set(self.entry.row_plates))

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

    def evaluate(self, data: Any = None, num_draws: int | None = None, seed: int = 0) -> dict[str, float]:
        """Return how well the fit predicts data, by default the fitted ones: numbers by name.

        `log_density` is the log predictive density of all rows, in nats: log E p(row | globals), summed over rows. It
        is in closed form where the model has one; else the mean over draws, and `log_density_error` is its Monte Carlo
        standard error. Of a deep model it is the importance-weighted bound L_K, beside the ELBO and with what tells
        how far it can be trusted (`inference.deep.evaluate`). A model may add numbers of its own, such as a perplexity.
        Where nothing is observed there is nothing to predict, and there are no numbers.

        num_draws: of a deep model K, the draws of each row. By default 200; of a deep model 1,000, and if there are
        many rows L_K is that of some, drawn by the seed: `num_rows_left_out` counts the others.
        """
        if num_draws is not None:
            contract.check_whole("num_draws", num_draws, least=2)
        data, form = self._data(data), self.entry.closed_form
        if not self.entry.has_rows:
            return {}
        if self.is_deep:
            from latentzoo.inference import deep

            found = deep.evaluate(self.entry, data, self.prior, self.params, num_draws, seed)
        else:
            rows, error = self._log_predictive(data, num_draws or DENSITY_DRAWS, seed)
            found = {
                "log_density": float(rows.sum()),
                "log_density_per_row": float(rows.mean()),
                "log_density_error": error,
                "num_rows": float(len(rows)),
            }
        own = getattr(form, "metrics", None)
        return found | (own(found["log_density"], self.params, data, self.entry.spec) if own else {})

    @property
    def is_deep(self) -> bool:
        """Whether its networks and its guide are the model's own, whose rows are weighed by hand."""
        return not self.entry.is_exact and self.guide is None

    def baselines(self, data: Any, validation: Any = None) -> dict[str, float]:
        """Return what simpler or smoother models reach on data, where the model has such: numbers by name.

        They are fitted to the same data; what they have to choose is chosen on the validation data.
        """
        own = getattr(self.entry.closed_form, "baselines", None)
        if own is None or self.chains is not None or self.guide is not None:
            return {}
        return own(self.params, self._data(None), self._data(data), validation, self.entry.spec)

    def _log_predictive(self, data: Any, num_draws: int, seed: int) -> tuple[np.ndarray, float]:
        """Return the log predictive density of each row, and the Monte Carlo error of their sum."""
        if self.chains is None and self.guide is None and has_log_predictive(self.entry):
            return log_predictive(self.entry, data, self.prior, self.params), 0.0
        draws = self.posterior(num_draws, seed)
        groups = np.array_split(np.arange(num_draws), min(GROUPS, num_draws))
        each = np.stack([self._log_density(data, {s: d[group] for s, d in draws.items()}) for group in groups])
        sizes = np.array([len(group) for group in groups])
        rows = np.logaddexp.reduce(each + np.log(sizes / num_draws)[:, None])
        return rows, float(each.sum(1).std(ddof=1) / np.sqrt(len(groups)))

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

        Of parameters at points, nothing. Of a guide: `khat`, the Pareto shape of its importance weights, which should
        be below 0.7, and `ess`, the draws from the true posterior that its draws are worth. Of a sampler, over all
        numbers it drew: the largest `r_hat`, the smallest `ess_bulk` and `ess_tail`, and `num_divergences`.
        """
        from latentzoo.inference import importance

        if self.chains is not None:
            return importance.of_chains(self.chains.draws, self.chains.stats)
        if self.is_point:
            return {}  # there is no posterior to doubt
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
        if self.is_point:
            raise UserError(f"{self.label} holds its parameters at points: there is no posterior to leave rows out of")
        if not self.entry.has_rows:
            raise UserError(f"{self.entry.name} observes nothing: there are no rows to leave out")
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

        Of a deep model, whose parameters are points, the posterior is that of the latent variables of rows under the
        guide of the best restart: of at most 1,000 rows, drawn by the seed, which the coordinate `rows` tells apart.
        """
        from latentzoo.inference.arviz_export import export

        contract.check_whole("num_draws", num_draws)
        return export(self, self._data(data), num_draws, seed)

    def describe(self) -> str:
        """Return the table that one looks at first, where the model has one: its components, classes, directions."""
        own = getattr(self.entry.closed_form, "describe", None)
        if own is None or self.chains is not None or self.guide is not None:
            return ""
        return own(self.params, self.like, self.entry.spec)

    def exports(self) -> dict[str, str]:
        """Return the fit as files that other programs read, by their names, where the model has such."""
        own = getattr(self.entry.closed_form, "exports", None)
        return (
            {}
            if own is None or self.chains is not None or self.guide is not None
            else own(self.params, self.entry.spec)
        )

    def _data(self, data: Any) -> Any:
        data = self.data if data is None else data
        if data is None:
            raise UserError("this fit was loaded without its data: pass data=, or lz.load(path, data=...)")
        return self.entry.check_like(data, self.like)

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
            "objective": self.objective,
            "elbo": None if np.isnan(self.elbo) else self.elbo,
            "elbo_error": self.elbo_error,
            "num_steps": self.num_steps,
            "num_gradients": self.num_gradients,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "converged": self.converged,
            "reason": self.reason,
            "restarts": [
                {name: value for name, value in run._asdict().items() if name != "params"} for run in self.restarts
            ],
            "versions": dict(self.versions),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit, without the rows of its data and its history, to one file: NumPy's .npz with JSON inside.

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
        if self.like is not None:
            arrays |= contract.leaves(contract.without_rows(self.like), "shared")
        arrays["summary"] = json.dumps({"format": FORMAT, **self.summary()})
        with atomic(path) as file:
            np.savez_compressed(file, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
        return path


@functools.cache
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
