"""What every method returns: the fitted parameters, how they were reached, and what can be done with them."""

import dataclasses
import json
import os
import platform
import zipfile
import zlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.accumulate import chunks
from latentzoo.inference.registry import Entry, get
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.files import atomic
from latentzoo.models.language.ppl import Library

FORMAT = 1
_CHUNK_ROWS = 65_536


class Restart(NamedTuple):
    """How one restart ended."""

    elbo: float
    converged: bool
    num_steps: int


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes
    ----------
    entry, prior, params: the model, its hyperparameters, and its parameters where the bound was highest.
    method, library, seed: how it was fitted; library is None for our own closed forms.
    elbo_trace, seconds_trace: the bound, in nats, and the seconds since the start, at each step.
    converged, reason: whether the run ended by itself, and why it ended.
    restarts: how every restart ended; this is the best of them.
    versions: of Python and of the libraries, and the machine.
    history: the parameters of every step, where they were asked for.
    data: what was fitted; None after `load`.
    """

    entry: Entry
    prior: Any
    params: Params
    method: str
    library: Library | None
    seed: int
    elbo_trace: np.ndarray
    seconds_trace: np.ndarray
    converged: bool
    reason: str
    restarts: tuple[Restart, ...]
    versions: Mapping[str, str]
    history: tuple[Params, ...] = ()
    data: Any = None

    @property
    def elbo(self) -> float:
        """The bound that was reached, in nats, every constant kept."""
        return float(self.elbo_trace[-1])

    @property
    def num_steps(self) -> int:
        """The number of steps that were taken."""
        return len(self.elbo_trace)

    def __repr__(self) -> str:
        state = "converged" if self.converged else f"not converged ({self.reason})"
        return (
            f"<Fit of {self.entry.name} by {self.method}: ELBO {self.elbo:.6f} after {self.num_steps} steps, {state}>"
        )

    def posterior(
        self, num_draws: int = 1000, seed: int = 0, sites: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Return draws from q, by site, the draws along the first axis.

        sites: by default the global ones; those inside the plate of the rows are as many as the data, and by name.
        """
        from latentzoo.inference.automatic import backend

        contract.check_whole("num_draws", num_draws)
        guide = self.entry.guide.numpyro
        data = self._data(None) if sites else contract.take_rows(self._data_or_default(), slice(0, 1))
        args = (data, self.prior, self.params)
        plates = backend("numpyro").plates(guide, args, {})
        for site in sites or ():
            choose(site, plates, "latent site")
        if sites is None:
            sites = tuple(name for name, around in plates.items() if not set(around) & set(self.entry.row_plates))
        return backend("numpyro").draws(guide, args, sites, num_draws, seed)

    def predict(self, data: Any = None) -> dict[str, np.ndarray]:
        """Return what the model says of each row, by default of the fitted data: for a mixture, responsibilities."""
        data = self._data(data)
        return self.entry.closed_form.predict(self.params, data, self.prior, self.entry.spec)

    def evaluate(self, data: Any = None, num_draws: int = 200, seed: int = 0) -> dict[str, float]:
        """Return the log predictive density of data, in nats: log mean_draws p(row | draw), summed over rows.

        By draws from q, so that every method is measured alike; `log_density_error` is its Monte Carlo standard error.
        """
        contract.check_whole("num_draws", num_draws, least=2)
        data = self._data(data)
        draws = self.posterior(num_draws - num_draws % 2, seed)
        halves = [self._log_density(data, draws, range(half, num_draws - num_draws % 2, 2)) for half in (0, 1)]
        rows = np.logaddexp(*halves) - np.log(2.0)
        error = abs(halves[0].sum() - halves[1].sum()) / 2.0
        return {
            "log_density": float(rows.sum()),
            "log_density_per_row": float(rows.mean()),
            "log_density_error": float(error),
            "num_rows": float(len(rows)),
        }

    def _log_density(self, data: Any, draws: Mapping[str, np.ndarray], chosen: range) -> np.ndarray:
        total = np.full(contract.num_rows(data) or 0, -np.inf)
        for index in chosen:
            total = np.logaddexp(total, self.log_likelihood(data, {site: draw[index] for site, draw in draws.items()}))
        return total - np.log(len(chosen))

    def log_likelihood(self, data: Any, latents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return log p(row | globals) of each row at one draw of the global latent variables, local ones summed out."""
        rows = self.entry.closed_form.log_likelihood
        parts = chunks(data, _CHUNK_ROWS)
        return np.concatenate([rows(latents, self.params, part, self.prior, self.entry.spec) for part in parts])

    def to_arviz(self, data: Any = None, num_draws: int = 1000, seed: int = 0) -> Any:
        """Return an ArviZ `InferenceData`: posterior, log_likelihood, observed_data, constant_data and the bound.

        Draws from q are one chain; dimensions bear the names of the plates; the trace of the bound, which has no draws,
        is a group of its own.
        """
        from latentzoo.inference.arviz_export import export

        return export(self, self._data(data), num_draws, seed)

    def _data(self, data: Any) -> Any:
        data = self.data if data is None else data
        if data is None:
            raise UserError("this fit was loaded without its data: pass data=")
        return self.entry.check(data)

    def _data_or_default(self) -> Any:
        """Return some rows: the global part of a guide does not depend on them."""
        return self.data if self.data is not None else self.entry.simulate(num_rows=1, prior=self.prior)[0]

    # --- files ---

    def summary(self) -> dict[str, Any]:
        """Return all that is not an array, as JSON can hold it."""
        return {
            "format": FORMAT,
            "model": self.entry.name,
            "spec": dataclasses.asdict(self.entry.spec),
            "method": self.method,
            "library": self.library,
            "seed": self.seed,
            "elbo": self.elbo,
            "num_steps": self.num_steps,
            "seconds": float(self.seconds_trace[-1]),
            "converged": self.converged,
            "reason": self.reason,
            "restarts": [restart._asdict() for restart in self.restarts],
            "versions": dict(self.versions),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit, without its data and history, to one file: NumPy's .npz with its description in JSON.

        The file appears whole or not at all. `latentzoo.load` reads it back.
        """
        path = Path(path)
        arrays = {
            **contract.leaves(self.params.theta, "theta"),
            **contract.leaves(self.params.phi, "phi"),
            **contract.leaves(self.prior, "prior"),
            "elbo_trace": self.elbo_trace,
            "seconds_trace": self.seconds_trace,
            "summary": json.dumps(self.summary()),
        }
        with atomic(path) as file:
            np.savez_compressed(file, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
        return path


# What NumPy, zipfile and JSON raise on files that are cut, changed, or something else.
_DAMAGED = (
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def load(path: str | os.PathLike[str]) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Raises
    ------
    UserError: there is no such file, or it is not a fit that this version can read.
    """
    path = Path(path)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        summary = json.loads(str(arrays.pop("summary")))
        if summary["format"] != FORMAT:
            raise UserError(f"{path} has format {summary['format']!r}: this version reads {FORMAT}")
        return _rebuild(summary, arrays)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a fit that latentzoo saved, or it is damaged") from error


def _rebuild(summary: dict[str, Any], arrays: dict[str, np.ndarray]) -> Fit:
    spec = {name: tuple(value) if isinstance(value, list) else value for name, value in summary["spec"].items()}
    entry = get(summary["model"], **spec)
    prior = {name.removeprefix("prior."): value for name, value in arrays.items() if name.startswith("prior.")}
    trace = arrays["elbo_trace"].astype(np.float64)
    if trace.ndim != 1 or not trace.size or trace.shape != arrays["seconds_trace"].shape:
        raise ValueError("the trace of the bound is no list of numbers")
    return Fit(
        entry=entry,
        prior=entry.check_prior(entry.Prior(**prior)),
        params=entry.check_params(entry.params(arrays)),
        method=summary["method"],
        library=summary["library"],
        seed=summary["seed"],
        elbo_trace=trace,
        seconds_trace=arrays["seconds_trace"],
        converged=summary["converged"],
        reason=summary["reason"],
        restarts=tuple(Restart(**restart) for restart in summary["restarts"]),
        versions=summary["versions"],
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed, and the machine."""
    libraries = ("latentzoo", "numpy", "scipy", "jax", "numpyro", "torch", "pyro-ppl", "funsor", "arviz")
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for library in libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
