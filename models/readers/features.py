"""Rows of features: the data of deep models without labels, their checks and their files."""

from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from latentzoo.models.language.contract import Reading, optional, shared
from latentzoo.models.language.deep import DeepSpec, check_features
from latentzoo.models.language.words import pack
from latentzoo.models.readers.table import names_of, read_table, write_table


class Data(NamedTuple):
    """Rows of features.

    x: a row for each observation, a column for each feature: from 0 to 1 for "bernoulli".
    columns: the names of the features, as `pack` makes an array of them.
    """

    x: Float[Any, "rows features"] = None
    columns: Annotated[UInt8[Any, "characters"], optional, shared] = None


def check_data(data: Data, spec: DeepSpec) -> None:
    """Raise `UserError` where a value is none that the likelihood knows, or images are not square."""
    if data.x is not None:
        check_features(np.asarray(data.x), spec.likelihood)
        spec.encoder(np.shape(data.x)[1], 1)


def read(
    path: str | PathLike[str],
    spec: DeepSpec,
    *,
    columns: tuple[str, ...] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Reading:
    """Read a table in CSV; return it with one line on what was read and what was left out.

    columns: the names of the features, in the order wanted; without them, every column of numbers.
    on_bad: "error" refuses a file with cells that are no finite numbers, "skip" leaves their rows out and says so.
    """
    table = read_table(path, columns=columns, on_bad=on_bad)
    return Reading(Data(table.x, pack(table.columns)), str(table.report), table.report.num_rows - table.report.num_kept)


def write(data: Data, path: str | PathLike[str], spec: DeepSpec) -> None:
    """Write a table in the CSV that `read` reads without options."""
    write_table(path, data.x, names_of(data, data.x.shape[1]))


def options_like(data: Data) -> dict[str, Any]:
    """Return the options with which another file is read as these data were: the same columns, in the same order."""
    return {} if data.columns is None else {"columns": names_of(data)}
