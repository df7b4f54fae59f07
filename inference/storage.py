"""Fits read back from the files that `Fit.save` writes: one .npz without pickle, whose description is JSON."""

import dataclasses
import functools
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latentzoo.inference.mcmc import Chains
from latentzoo.inference.posterior import OwnGuide, own_guide, start_values
from latentzoo.inference.registry import Entry, get
from latentzoo.inference.result import FORMAT, Fit, Restart
from latentzoo.inference.run import Trace
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

# What NumPy, zipfile and JSON raise on files that are cut, changed, or something else.
_DAMAGED = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def load(path: str | os.PathLike[str], *, guide: Any = None, data: Any = None) -> Fit:
    """Read a fit that `Fit.save` wrote.

    guide: the guide of your own that it was fitted with, where there was one; an AutoGuide is made anew.
    data: the data that it was fitted to, which are not in the file; without them its methods ask for data.

    Raises
    ------
    UserError: there is no such file, it is not a fit that this version can read, or it needs its guide.
    """
    path = Path(path)
    with reading(path, "is not a fit that latentzoo saved, or it is damaged"):
        arrays, summary = read_arrays(path)
        if summary["format"] != FORMAT:
            raise UserError(f"{path} has format {summary['format']!r}: this version reads {FORMAT}")
        fit = _rebuild(path, summary, arrays, guide)
        return fit if data is None else dataclasses.replace(fit, data=fit.entry.check(data))


@contextmanager
def reading(path: Path, damaged: str) -> Iterator[None]:
    """Say of a file that is not there, or cannot be read as what it should be, so in one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} {damaged}") from error


def read_arrays(path: Path, most_bytes: float = float("inf")) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a file of ours and its description, which together take so much memory at most."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if sum(member.file_size for member in file.zip.infolist()) > most_bytes:
            raise ValueError("its arrays are larger than they can be")
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("summary")))


def _rebuild(path: Path, summary: dict[str, Any], arrays: dict[str, np.ndarray], guide: Any) -> Fit:
    spec = {name: tuple(value) if isinstance(value, list) else value for name, value in summary["spec"].items()}
    entry = get(summary["model"], **spec)
    draws, stats = below("chains.draws", arrays), below("chains.stats", arrays)
    params = functools.partial(params_of, entry, summary["guide"] is not None, bool(draws))
    trace = Trace(**below("trace", arrays))
    if any(column.ndim != 1 or not column.size or column.shape != trace.step.shape for column in trace):
        raise ValueError("the trace of the bound is no table of numbers")
    return Fit(
        entry=entry,
        prior=entry.check_prior(contract.from_leaves(entry.Prior, below("prior", arrays), "prior")),
        params=params(arrays),
        method=summary["method"],
        library=summary["library"],
        seed=summary["seed"],
        elbo=np.nan if summary["elbo"] is None else summary["elbo"],
        elbo_error=summary["elbo_error"],
        trace=trace,
        compile_seconds=summary["compile_seconds"],
        converged=summary["converged"],
        reason=summary["reason"],
        restarts=tuple(
            Restart(**run, params=params(below(f"restarts.{index}", arrays)))
            for index, run in enumerate(summary["restarts"])
        ),
        versions=summary["versions"],
        guide=None if summary["guide"] is None else _guide(path, entry, summary, guide),
        chains=_chains(draws, stats, summary) if draws else None,
        state=below("state", arrays),
        data=None if entry.has_rows else entry.check(None),
        shared=entry.Data(**shared) if (shared := below("shared", arrays)) else None,
    )


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with this prefix and a point, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def params_of(entry: Entry, own: bool, sampled: bool, arrays: dict[str, np.ndarray]) -> Params:
    """Return the parameters of the model, checked; those of another guide are a dict by the names of their sites."""
    theta = {name: leaf for name, leaf in arrays.items() if name.startswith("theta.")}
    if own or sampled:
        return Params(entry.params(theta).theta if theta else None, below("phi", arrays) if own else None)
    return entry.check_params(entry.params(arrays))


def _guide(path: Path, entry: Entry, summary: dict[str, Any], guide: Any) -> OwnGuide:
    """Return the guide of a fit: the one that was given, an AutoGuide made anew, or one that says what it lacks."""
    name, library = summary["guide"], summary["library"]
    if guide is None and not name.startswith("Auto"):
        return OwnGuide(name, functools.partial(_missing, path, name), needs_data=False)
    return own_guide(entry, library, name if guide is None else guide, functools.partial(_any_start, entry))


def _any_start(entry: Entry) -> dict[str, np.ndarray]:
    """Return values of the sites that an AutoGuide is made for; its parameters are in the file."""
    data, _ = entry.simulate(num_rows=2)
    prior = entry.prior(data)
    return start_values(entry, data, prior, entry.init(data, prior), seed=0)


def _missing(path: Path, name: str, *_: Any, **__: Any) -> None:
    raise UserError(f"the guide of {path} is your own ({name}): lz.load(path, guide=...) gives it back")


def _chains(draws: dict[str, np.ndarray], stats: dict[str, np.ndarray], summary: dict[str, Any]) -> Chains:
    times = summary["seconds"], summary["compile_seconds"]
    return Chains(draws, stats, summary["num_gradients"], *times, "" if summary["converged"] else summary["reason"])
