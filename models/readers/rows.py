"""Rows of features, with labels or without, from whatever holds them.

    a table in CSV                  its columns of numbers, and its column of labels
    a file in IDX, plain or .gz     images, and the labels that lie beside it under MNIST's names
    a file in NPZ                   an array with a row for each image, and one with its labels
    a folder                        the two parts of a data set in IDX, under MNIST's names

What a file is, its first bytes say. Images become rows of their pixels; bytes are divided by 255, unless they are all 0
or 1. Where the floats would fill much of the memory that is free, the rows stay on disk (`Stream`).
"""

import gzip
import zlib
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.models.language.contract import Reading, check_number, check_whole
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.stream import Stream, floats
from latentzoo.models.language.words import pack, unpack
from latentzoo.models.readers import idx, npz
from latentzoo.models.readers.csv_file import place_of
from latentzoo.models.readers.idx import Part
from latentzoo.models.readers.labelled import LABEL, NONE, read_labelled, write_labelled
from latentzoo.models.readers.table import names_of

NAMES = ("x", "images", "data")  # of the array of features in an NPZ file, unless the user says another
LABELS = (LABEL, "labels", "y")  # and of the labels
COLUMNS = "columns"  # the names of the features, packed
DIGITS = "scikit-learn's digits"

# The options that each kind of source takes, beside those of all.
_TAKES = {
    "a table": ("columns", "label"),
    "an IDX file": (),
    "an NPZ file": ("columns", "label", "x"),
    "a folder": ("part",),
}


class Options(NamedTuple):
    """How rows are to be read: the keywords of a model's own reader, which says what they are."""

    columns: tuple[str, ...] | None = None
    label: str | None = None
    x: str | None = None
    part: Part = "train"
    threshold: float | None = None
    on_bad: Literal["error", "skip"] = "error"


class Found(NamedTuple):
    """What a source holds, before it becomes the data of a model.

    label: the class of each row, -1 where it has none; None where there are none. columns: the names of the features,
    where they have names. test: what the source keeps apart.
    """

    x: Float[np.ndarray, "rows features"] | Stream
    label: Int[np.ndarray, "rows"] | None
    columns: tuple[str, ...] | None
    summary: str
    num_left_out: int = 0
    test: "Found | None" = None


def read_rows(kind: Any, path: str | PathLike[str], options: Options, num_classes: int | None = None) -> Reading:
    """Read the rows of a file or a folder as data of a kind, which has the fields x, label and columns.

    num_classes: of which a label must be one; None where any whole number from 0 is a label.

    Raises
    ------
    UserError: the source cannot be read, it does not fit together, or an option is wrong or none of its kind.
    """
    path = Path(expanduser(path))
    source = _source(path)
    _check_options(path, source, options)
    if source == "a folder":
        found = _folder(path, options)
    elif source == "a table":
        found = _table(path, options, num_classes)
    else:
        found = _idx(path, options) if source == "an IDX file" else _npz(path, options)
    for each in filter(None, (found, found.test)):
        _check_classes(path, each, num_classes)
    test = found.test and _as(kind, found.test)
    return Reading(_as(kind, found), found.summary, found.num_left_out, test)


def write_rows(data: Any, path: str | PathLike[str]) -> None:
    """Write rows that `read_rows` reads without options: in NPZ where the name ends so, else in CSV."""
    if Path(path).suffix.lower() == ".npz":
        npz.write_npz(path, {NAMES[0]: data.x, LABEL: data.label, COLUMNS: data.columns})
    else:
        write_labelled(path, data.x, data.label, names_of(data, data.x.shape[1]))


def digits(kind: Any, num_classes: int = 10, *, threshold: float | None = None, **others: Any) -> Reading:
    """Return scikit-learn's 8 x 8 images of handwritten digits (1,797, UCI), those below num_classes, with labels.

    Raises
    ------
    UserError: there are more classes than digits, or an option is one that only a file has.
    """
    from sklearn.datasets import load_digits

    if others:
        raise UserError(f"{next(iter(others))} is for a file: name one, or leave it out to have {DIGITS}")
    if num_classes > 10:
        raise UserError(f"num_classes is {num_classes}: {DIGITS} have 10 classes; take fewer, or name a file")
    _check_threshold(threshold)
    bunch = load_digits()
    rows = bunch.target < num_classes
    raw, label = bunch.data[rows].astype(np.float32), bunch.target[rows].astype(np.int64)
    x = floats(raw, 16.0, threshold)
    return Reading(kind(x, label), f"{DIGITS}: {len(x):,} images of 8 x 8, with labels", 0)


def some_labels(label: Int[np.ndarray, "rows"], number: int, seed: int) -> Int[np.ndarray, "rows"]:
    """Return labels of which so many are left, as many of each class as there are, drawn at random; the rest is -1.

    Raises
    ------
    UserError: there are fewer labels.
    """
    check_whole("num_labelled", number, least=0)
    check_whole("label_seed", seed, least=0)
    order = np.random.default_rng(seed).permutation(len(label))
    known = order[label[order] != NONE]
    if number > len(known):
        raise UserError(f"num_labelled is {number}: {len(known):,} rows have a label, keep no more")
    turn = np.zeros(len(known), dtype=np.int64)  # a row's place among those of its class
    for each in np.unique(label[known]):
        mine = label[known] == each
        turn[mine] = np.arange(mine.sum())
    kept = known[np.argsort(turn, kind="stable")[:number]]
    left = np.full_like(label, NONE)
    left[kept] = label[kept]
    return left


def _source(path: Path) -> str:
    """Return what kind of source this is, by its first bytes; where they are of no kind, by its name."""
    if path.is_dir():
        return "a folder"
    start = _start(path)
    if start == b"\x93NUM":
        raise UserError(f"{path} is a single array: save it by its name, numpy.savez('rows.npz', x=array)")
    if start == npz.START or path.suffix.lower() == ".npz":
        return "an NPZ file"
    named = "idx" in path.name.lower() and "ubyte" in path.name.lower()
    return "an IDX file" if start and (idx.is_idx(start) or named) else "a table"


def _check_options(path: Path, source: str, options: Options) -> None:
    """Refuse an option that is wrong, or for another kind of source."""
    choose(options.part, ("train", "test"), "part")
    _check_threshold(options.threshold)
    given = [name for name in ("columns", "label", "x") if getattr(options, name) is not None]
    given += ["part"] if options.part != "train" else []
    for name in given:
        if name not in _TAKES[source]:
            takers = " or ".join(each for each, names in _TAKES.items() if name in names)
            raise UserError(f"{name} is for {takers}, and {path} is {source}: leave it out")


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None:
        check_number("threshold", threshold, least=-(2.0**32))


def _start(path: Path) -> bytes:
    """Return the first four bytes of a file, unpacked; of one that cannot be read none, which its reader tells."""
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
            if start[:2] != idx.PACKED:
                return start
            raw.seek(0)
            with gzip.open(raw) as file:
                return file.read(4)
    except (OSError, EOFError, zlib.error):
        return b""


def _as(kind: Any, found: Found) -> Any:
    return kind(found.x, found.label, None if found.columns is None else pack(found.columns))


# --- one kind of source each ------------------------------------------------------------------------------------------


def _folder(path: Path, options: Options) -> Found:
    images = idx.images_in(path)
    if options.part not in images:
        raise UserError(f"{path} has no images of part {options.part!r}: there is {', '.join(images)}")
    found = _idx(images[options.part], options)
    keeps = options.part == "train" and "test" in images
    return found._replace(test=_idx(images["test"], options)) if keeps else found


def _table(path: Path, options: Options, num_classes: int | None) -> Found:
    columns, on_bad = options.columns, options.on_bad
    table = read_labelled(path, num_classes, columns=columns, label=options.label, on_bad=on_bad)
    report, x = table.report, floats(table.x, threshold=options.threshold)
    return Found(x, table.label, table.columns, str(report), report.num_rows - report.num_kept)


def _idx(path: Path, options: Options) -> Found:
    raw = idx.read_idx(path)
    if raw.ndim < 2:
        raise UserError(f"{path} holds one number for each row, as labels are: name the file of images")
    beside = idx.labels_beside(path)
    label = None if beside is None else _labels(beside, idx.read_idx(beside), len(raw))
    x, words = _features(raw, options.threshold)
    told = "" if beside is None else f"; labels from {beside}"
    return Found(x, label, None, f"{path}: {words}{told}")


def _npz(path: Path, options: Options) -> Found:
    found = npz.members(path)
    name = _array_of_rows(path, found, options.x)
    raw = npz.read_array(path, name, found[name])
    labels = npz.pick(path, found, options.label, LABELS, "label")
    label = None if labels is None else _labels(path, npz.read_array(path, labels, found[labels]), len(raw))
    x, words = _features(raw, options.threshold)
    names = _names(path, found, x.shape[1])
    if options.columns is not None and names != options.columns:
        x, names = _chosen(path, x, names, options.columns), options.columns
    return Found(x, label, names, f"{path}: {words}" + (f"; labels from {labels!r}" if labels else ""))


def _array_of_rows(path: Path, found: dict[str, npz.Member], asked: str | None) -> str:
    """Return the name of the array of features: that asked for, one of the usual names, or the only table."""
    name = npz.pick(path, found, asked, NAMES, "x")
    tables = [each for each, member in found.items() if len(member.shape) > 1]
    if name is None and len(tables) == 1:
        name = tables[0]
    if name is None:
        listed = ", ".join(map(str, found.values())) or "none"
        raise UserError(f"{path} has no array {NAMES[0]!r}: name that of the rows with x=...; there is {listed}")
    if len(found[name].shape) < 2:
        raise UserError(f"{path}: the array {found[name]} is no table: give one with a row for each observation")
    return name


def _names(path: Path, found: dict[str, npz.Member], num_features: int) -> tuple[str, ...] | None:
    """Return the names of the features that `write_rows` wrote; None where there are none."""
    if COLUMNS not in found:
        return None
    try:
        names = unpack(npz.read_array(path, COLUMNS, found[COLUMNS]))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {COLUMNS!r} is no text in UTF-8: leave it out, or write the file again") from error
    if len(names) != num_features:
        raise UserError(f"{path}: {COLUMNS!r} has {len(names)} names, and the rows {num_features} features")
    return names


def _chosen(path: Path, x: Any, names: tuple[str, ...] | None, columns: tuple[str, ...]) -> Any:
    """Return the features of these names, in this order."""
    if names is None or isinstance(x, Stream):
        why = "its features have no names" if names is None else "its rows stay on disk as they are"
        raise UserError(f"{path}: columns={','.join(columns)} cannot be chosen: {why}")
    return x[:, [place_of(path, list(names), name, "columns") for name in columns]]


# --- numbers as they lie ----------------------------------------------------------------------------------------------


def _features(raw: np.ndarray, threshold: float | None) -> tuple[Any, str]:
    """Return an array as rows of floats, and what was done in words; a mapped one stays on disk."""
    rows = raw.reshape(len(raw), -1)
    unit = 255.0 if raw.dtype == np.uint8 and rows.max() > 1 else 1.0
    size = " x ".join(map(str, raw.shape[1:]))
    what = f"images of {size}" if raw.ndim > 2 else f"rows of {size} features"
    words = f"{len(raw):,} {what} read" + (", bytes divided by 255" if unit != 1.0 else "")
    if isinstance(raw, np.memmap):
        return Stream(rows, unit, threshold), f"{words}; they stay on disk"
    return floats(rows, unit, threshold), words


def _labels(path: Path, raw: np.ndarray, num_rows: int) -> Int[np.ndarray, "rows"]:
    """Return the labels of a file, checked."""
    label = raw.reshape(-1) if raw.shape[1:] == (1,) else np.asarray(raw)
    if label.shape != (num_rows,):
        raise UserError(f"{path} holds labels of shape {raw.shape}, and there are {num_rows:,} rows: one is for each")
    whole = np.isfinite(label) & (label >= NONE) & (np.floor(label) == label)
    if not whole.all():
        row = int(np.argmin(whole))
        raise UserError(f"{path}: label {row} is {label[row]:g}: classes count from 0, and -1 is for none")
    return label.astype(np.int64)


def _check_classes(path: Path, found: Found, num_classes: int | None) -> None:
    if found.label is None or num_classes is None or found.label.max() < num_classes:
        return
    row = int(np.argmax(found.label >= num_classes))
    known = f"with num_classes={num_classes} a label is from 0 to {num_classes - 1}"
    raise UserError(f"{path}: row {row} has label {found.label[row]}: {known}; take more classes")
