"""Rows of features: the data of deep models that know no labels, their checks and their files."""

from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentzoo.models.language.contract import Reading, optional, shared, state_or_missing
from latentzoo.models.language.deep import DeepSpec, check_features
from latentzoo.models.readers.idx import Part
from latentzoo.models.readers.rows import Options, digits, read_rows, write_rows
from latentzoo.models.readers.table import names_of


class Data(NamedTuple):
    """Rows of features.

    x: a row for each observation, a column for each feature: from 0 to 1 for "bernoulli".
    label: the class of each row, -1 where it is missing: no part of the model, but what its codes are compared with.
    columns: the names of the features, as `pack` makes an array of them.
    """

    x: Float[Any, "rows features"] = None
    label: Annotated[Int[Any, "rows"], optional, state_or_missing] = None
    columns: Annotated[UInt8[Any, "characters"], optional, shared] = None


def check_data(data: Data, spec: DeepSpec) -> None:
    """Raise `UserError` where a value is none that the likelihood knows, or images are not square."""
    if data.x is not None:
        check_features(data.x, spec.likelihood)
        spec.encoder(np.shape(data.x)[1], 1)


def read(
    path: str | PathLike[str],
    spec: DeepSpec,
    *,
    columns: tuple[str, ...] | None = None,
    label: str | None = None,
    x: str | None = None,
    part: Part = "train",
    threshold: float | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Reading:
    """Read a table in CSV, images in IDX or NPZ, or a folder of MNIST's; return them with a line on what was read.

    columns: the names of the features of a table, in the order wanted; without them, every column of numbers.
    label: the name of the column, or of the array of an NPZ file, that holds labels: whole numbers from 0. Without it,
        "label"; where there is none, there are no labels.
    x: the name of the array of an NPZ file that holds the features; without it "x", or the only one with rows.
    part: of the data set in a folder; with "train", the other one is kept apart to measure the fit on.
    threshold: a feature above it becomes 1, any other 0.
    on_bad: "error" refuses a table with cells that are no finite numbers, "skip" leaves their rows out and says so.
    """
    options = Options(columns, label, x, part, threshold, on_bad)
    return read_rows(Data, path, options)


def write(data: Data, path: str | PathLike[str], spec: DeepSpec) -> None:
    """Write what `read` reads without options: NPZ where the name ends so, else a table in CSV."""
    write_rows(data, path)


def default_data(spec: DeepSpec, **options: Any) -> Reading:
    """Return scikit-learn's images of handwritten digits, which come without a download."""
    return digits(Data, **options)


def options_like(data: Data) -> dict[str, Any]:
    """Return the options with which another file is read as these data were: the same columns, in the same order."""
    return {} if data.columns is None else {"columns": names_of(data)}
