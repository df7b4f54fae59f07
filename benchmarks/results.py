"""`results.json`: all that a bench measured, and all that is needed to judge it. SCHEMA 2:

    schema        2
    settings      what two runs must share to be one, so that a bench that was stopped can go on:
        seed, quick    as they were given
        catalogues     {entry: {file, sha256, options}}, the data sets that the user named
        versions       of Python and of the libraries
        machine        platform, cpu, cores (that this process may use), memory_gib
        code           sha256 of latentzoo's own source
    load_average  of the machine over the last minute when the bench began (null where there is none): timings that
                  were taken on a busy machine say little
    started       ISO 8601, UTC
    finished      the same; null of a bench that was stopped
    done          {unit of work: seconds}; a unit that failed is not done, and is tried again
    rows          one object a measurement:
        suite, entry, variant, library, data    what was measured; "" where it has no meaning
        quantity, value, unit                   the number, by name and unit
        reference                               what the value is compared with
        error, tolerance                        how far apart they are, and how far they may be
        ok                                      whether the claim holds; null of a number that claims nothing
        seconds                                 how long the row took
        note                                    in words; of a failure, its line
        work                                    the unit of work that made the row
        compile_seconds                         what JAX took to compile before, which `seconds` leave out: 0 where
                                                this process had compiled the same already; null where nobody asked
        curve                                   of a run, its way: {step, seconds, gradients, elbo}, lists of one length
                                                from the start at step 0 to the end, at most 60 points, evenly spaced
                                                on a logarithmic scale: the steps of the method, the seconds and the
                                                passes over all rows for gradients until there, the exact bound there;
                                                null of anything else

A number that is not finite is null, as JSON has no other word for it. The file is written whole after every row.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from latentzoo.inference.result import versions
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.files import atomic

SCHEMA = 2
# For each entry, the file of a data set and the options it is read with.
Catalogues = Mapping[str, tuple[str, Mapping[str, Any]]]
Curve = Mapping[str, Sequence[float | None]]


class Row(NamedTuple):
    """One measurement; the docstring of the module says what each field is."""

    suite: str
    quantity: str
    entry: str = ""
    variant: str = ""
    library: str = ""
    data: str = ""
    value: float | None = None
    unit: str = ""
    reference: float | None = None
    error: float | None = None
    tolerance: float | None = None
    ok: bool | None = None
    seconds: float | None = None
    note: str = ""
    work: str = ""
    compile_seconds: float | None = None
    curve: Curve | None = None


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclasses.dataclass
class Results:
    """The results of a bench, kept in `results.json` in its folder from the first row on."""

    path: Path
    settings: dict[str, Any]
    load_average: float | None = dataclasses.field(default_factory=_load_average)
    started: str = dataclasses.field(default_factory=_now)
    finished: str | None = None
    done: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        self.save()

    def begin(self, work: str) -> None:
        """Forget the rows of an earlier attempt at a unit of work."""
        self.rows = [row for row in self.rows if row.work != work]

    def forget(self, work: str) -> None:
        """Forget that a unit of work is done, and its rows."""
        self.begin(work)
        self.done.pop(work, None)

    def complete(self, work: str, seconds: float) -> None:
        """Keep that a unit of work is done."""
        self.done[work] = round(seconds, 3)
        self.save()

    def finish(self) -> None:
        """Keep that the bench came to its end."""
        self.finished = _now()
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        kept["rows"] = [{name: _plain(value) for name, value in row._asdict().items()} for row in self.rows]
        with atomic(self.path, "w", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA, **kept}, file, indent=1, allow_nan=False)


def load(path: Path) -> Results:
    """Read results.

    Raises
    ------
    UserError: the file is not one that this version wrote.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held.pop("schema") != SCHEMA:
            raise UserError(f"{path} has another schema: this version reads {SCHEMA}")
        held["rows"] = [Row(**row) for row in held["rows"]]
        return Results(path, **held)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} does not hold results of a bench, or it is damaged: remove it") from error


def open_results(folder: Path, settings: dict[str, Any], say: Callable[[str], None]) -> Results:
    """Return the results to add to: those in the folder if they were measured with the same settings, else new ones.

    say: is told in a line what became of results that were there.
    """
    path = folder / "results.json"
    settings = json.loads(json.dumps(settings, default=str))  # as they are read back
    if not path.exists():
        return Results(path, settings)
    found = load(path)
    differ = sorted(name for name in settings if found.settings.get(name) != settings[name])
    if differ:
        kept = path.with_name("results.previous.json")
        os.replace(path, kept)
        say(f"starting anew, since {', '.join(differ)} changed; the results that were here are now {kept.name}")
        return Results(path, settings)
    if found.done:
        say(f"going on: {len(found.done)} units of work are done (remove {path} to measure them again)")
    found.finished = None
    return found


# --- settings -------------------------------------------------------------------------------------------------------


def describe(seed: int, quick: bool, catalogues: Catalogues) -> dict[str, Any]:
    """Return the settings of a bench."""
    return {
        "seed": seed,
        "quick": quick,
        "catalogues": {
            entry: {"file": str(file), "sha256": _digest([Path(file)]), "options": dict(options)}
            for entry, (file, options) in catalogues.items()
        },
        "versions": versions(),
        "machine": machine(),
        "code": _digest(source_files()),
    }


def machine() -> dict[str, Any]:
    """Return what the timings depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = getattr(os, "sysconf_names", {})
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in known else None
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": None if pages is None else round(pages / 2**30, 1),
    }


def source_files() -> list[Path]:
    """Return the files of latentzoo's own source: a proof holds for the code that it was run on."""
    rooms = ("models", "guides", "inference", "benchmarks")
    folders = [Path(folder) for room in rooms for folder in importlib.import_module(f"latentzoo.{room}").__path__]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        try:
            total.update(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return total.hexdigest()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NumPy's scalars as Python's, what is not finite as None, also in lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
