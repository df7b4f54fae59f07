"""The data sets that suites fit: of each entry those that its own story makes, and those that the user names."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentzoo.benchmarks.runner import Context
from latentzoo.inference.registry import Entry, get, names
from latentzoo.models.language import contract
from latentzoo.models.language.errors import Note


class Task(NamedTuple):
    """A data set to fit: `truth` and `held_out` of a simulated one, `about` in words."""

    zoo: Entry
    name: str
    data: Any
    prior: Any
    about: str
    truth: dict[str, np.ndarray] | None = None
    held_out: Any = None

    @property
    def options(self) -> str:
        """The Spec in words."""
        return ", ".join(f"{field}={value}" for field, value in vars(self.zoo.spec).items())


class Source(NamedTuple):
    """Where a data set comes from: the entry, the name of the data, and what loads or draws them."""

    entry: str
    data: str
    load: Callable[[], Task]

    @property
    def name(self) -> str:
        """The name of the data set among those of all entries."""
        return f"{self.entry}/{self.data}"


def sources(context: Context, num_rows: int, num_held_out: int = 0) -> Iterator[Source]:
    """Yield each entry's simulated data, of so many rows, and each data set that the user named; none is loaded yet.

    Entries without a bound in closed form are left out: what they are measured by is not the same.
    """
    for entry in filter(lambda name: get(name).is_exact, names()):
        data = "simulated" if get(entry).has_rows else "target"
        yield Source(entry, data, partial(simulated, entry, context.seed, num_rows, num_held_out))
        if entry in context.catalogues:
            file = Path(context.catalogues[entry][0]).name
            yield Source(entry, file, partial(named, entry, context))


def simulated(entry: str, seed: int, num_rows: int, num_held_out: int) -> Task:
    """Return what the model drew; further rows, of the same latent globals, are held out."""
    zoo = get(entry)
    prior = zoo.prior()
    everything, truth = zoo.simulate(seed=seed, num_rows=num_rows + num_held_out, prior=prior)
    data = contract.take_rows(everything, slice(0, num_rows))
    held_out = contract.take_rows(everything, slice(num_rows, None)) if num_held_out else None
    about = f"{num_rows:,} rows drawn from the model itself, seed {seed}"
    if not zoo.has_rows:
        return Task(zoo, "target", data, prior, "nothing is observed")
    return Task(zoo, "simulated", data, prior, about, truth, held_out)


def named(entry: str, context: Context) -> Task:
    """Return the file that the user named, read with the options that came with it, which may be of the Spec, too."""
    file, options = context.catalogues[entry]
    fields = get(entry).spec.__dataclass_fields__
    zoo = get(entry, **{key: value for key, value in options.items() if key in fields})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Note)
        data = zoo.read(file, **{key: value for key, value in options.items() if key not in fields})
    notes = [str(one.message) for one in caught if issubclass(one.category, Note)]
    about = "; ".join([f"{contract.num_rows(data) or 0:,} rows of {Path(file).name}", *notes])
    return Task(zoo, Path(file).name, data, zoo.prior(data), about)
