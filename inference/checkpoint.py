"""Checkpoints: files that a run goes on from, to the bit, after it was killed at any moment.

A checkpoint is a .npz of arrays without pickle, with a description in JSON. It appears whole or not at all, and the one
before it stays beside it until the next, so that there is always one that can be read.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.run import Record, Step
from latentzoo.inference.storage import below, params_of, read_arrays, reading
from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.files import atomic
from latentzoo.models.language.stream import Stream

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

FORMAT = 1
SECONDS = 5.0  # between two checkpoints, and more where writing one takes long
SHARE = 0.02  # of the time, that may be spent on writing them
ROOM = 2**26  # bytes: of all in a checkpoint that is not as large as the parameters
MOST_DIGESTED = 2**28  # bytes of an array; of a larger one, and of rows on disk, some say which they are
State = dict[str, np.ndarray]


class Checkpoint:
    """The checkpoint of a run, at a path, and the one before it."""

    def __init__(self, path: str | os.PathLike[str], zoo: "Entry", own_guide: bool, identity: Mapping[str, Any]):
        """Take what tells this run from others, by names that a user knows; JSON can hold it."""
        self._path, self._zoo, self._own = Path(path), zoo, own_guide
        self._identity = json.loads(json.dumps(dict(identity)))
        self._due = time.monotonic() + SECONDS

    def read(self, like: Any) -> tuple[State, Record] | None:
        """Return the state and the record of the run so far; None where there is no checkpoint.

        like: parameters as large as those of the run.

        Raises
        ------
        UserError: the checkpoint is damaged, or that of another run.
        """
        before = previous(self._path)
        path = self._path if self._path.exists() or not before.exists() else before
        if not path.exists():
            return None
        others = path != before and before.exists()
        cure = f"remove it to go on from {before}" if others else "remove it to begin anew"
        most = ROOM + 64 * contract.num_numbers(like)
        with reading(path, f"is no checkpoint of latentzoo, or it is damaged: {cure}"):
            arrays, summary = read_arrays(path, most)
            self._check(path, summary)
            return below("state", arrays), self._record(arrays, summary)

    def write(self, state: Mapping[str, np.ndarray], record: Record) -> None:
        """Write a checkpoint, where one is due."""
        if time.monotonic() >= self._due:
            self.write_now(state, record)

    def write_now(self, state: Mapping[str, np.ndarray], record: Record) -> None:
        """Write a checkpoint, into a folder that is made if need be; the one that was there becomes the one before."""
        start = time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self._path.parent}: {error.strerror}") from error
        assert record.best is not None
        worth, elbo, best = record.best
        arrays = {f"state.{name}": array for name, array in state.items()}
        arrays |= {f"best.{name}": leaf for name, leaf in contract.leaves(best.params).items()}
        summary = {
            "format": FORMAT,
            "identity": self._identity,
            "best": {"worth": worth, "elbo": elbo, "number": best.number, "gradients": best.gradients},
            "since": record.since,
            "converged": record.converged,
            "seconds": record.running,
            "compile_seconds": record.compiling,
        }
        found = {**arrays, "columns": np.array(record.columns), "summary": np.array(json.dumps(summary))}
        with atomic(self._path) as file:
            np.savez(file, **found)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
            if self._path.exists():
                self._path.replace(previous(self._path))
        end = time.monotonic()
        self._due = end + max(SECONDS, (end - start) / SHARE)

    def _check(self, path: Path, summary: dict[str, Any]) -> None:
        if summary["format"] != FORMAT:
            raise UserError(f"{path} has format {summary['format']!r}: this version reads {FORMAT}")
        for name, value in self._identity.items():
            if (found := summary["identity"].get(name)) != value:
                told = f"its {name} is {found!r}, and not {value!r}"
                raise UserError(f"{path} is of another run, {told}: take another folder, or remove it to begin anew")

    def _record(self, arrays: State, summary: dict[str, Any]) -> Record:
        columns = arrays["columns"]
        if columns.ndim != 2 or columns.shape[1] != 4 or not len(columns):
            raise ValueError("the trace of the bound is no table of numbers")
        kept = summary["best"]
        params = params_of(self._zoo, self._own, False, below("best", arrays))
        best = Step(int(kept["number"]), params, float(kept["gradients"]))
        rows: list[tuple[float, float, float, float]] = [
            (int(number), elbo, seconds, gradients) for number, elbo, seconds, gradients in columns.tolist()
        ]
        return Record(
            columns=rows,
            best=(float(kept["worth"]), float(kept["elbo"]), best),
            since=int(summary["since"]),
            converged=str(summary["converged"]),
            running=float(summary["seconds"]),
            compiling=float(summary["compile_seconds"]),
        )


def previous(path: Path) -> Path:
    """Return the path of the checkpoint before the one at a path."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def remove(path: Path) -> None:
    """Remove a checkpoint, the one before it, and what a killed process may have left of one."""
    for each in (path, previous(path), *path.parent.glob(f".{path.name}.*")):
        each.unlink(missing_ok=True)


def digest(tree: Any) -> str:
    """Return a short text that tells a tree of arrays from others."""
    found = hashlib.sha256()
    for name, leaf in contract.leaves(tree).items():
        shape = np.shape(leaf)
        found.update(f"{name} {shape} {leaf.dtype}".encode())
        large = isinstance(leaf, Stream) or int(np.prod(shape)) * leaf.dtype.itemsize > MOST_DIGESTED
        some = leaf[np.linspace(0, shape[0] - 1, 1000).astype(int)] if large else leaf
        found.update(np.ascontiguousarray(contract.as_numpy(some)).tobytes())
    return found.hexdigest()[:16]
