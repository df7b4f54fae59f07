"""Arrays by name in NumPy's NPZ: nothing that it holds is run, and no more is unpacked than a header says."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from latentzoo.models.language import stream
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.files import atomic

START = b"PK\x03\x04"
BEST_RATIO = 1032  # what a byte that is deflated may unpack to
CHUNK_BYTES = 2**22
MOST_ARRAYS = 1000
LOCAL_HEADER = "<4s22xHH"  # of a member of an archive: its mark, and the lengths of its name and of what follows it

# What zipfile and NumPy raise about a file that is damaged, or made to do harm.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error),
    *(ValueError, RuntimeError, OverflowError, SyntaxError, tokenize.TokenError),
)


class Member(NamedTuple):
    """An array in the file: where it is, the type of its numbers, its shape, its order and how long its header is."""

    info: zipfile.ZipInfo
    dtype: np.dtype
    shape: tuple[int, ...]
    by_columns: bool
    length: int

    @property
    def num_bytes(self) -> int:
        """How many bytes the numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.info.filename.removesuffix('.npy')} {self.shape}"


def members(path: Path) -> dict[str, Member]:
    """Return what the arrays of a file are, by their names; none is read.

    Raises
    ------
    UserError: the file is damaged, or holds what is no array of numbers.
    """
    with _one_line(path), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if len(infos) > MOST_ARRAYS:
            raise UserError(f"{path} holds {len(infos):,} files: at most {MOST_ARRAYS:,} arrays are read")
        names = [info.filename.removesuffix(".npy") for info in infos]
        if len(set(names)) < len(names):
            raise UserError(f"{path} is damaged: it has two arrays of one name")
        if not all(info.filename.endswith(".npy") for info in infos):
            raise UserError(f"{path} is no NPZ file: it is an archive of files that are no arrays")
        return {name: _member(path, archive, info) for name, info in zip(names, infos, strict=True)}


def read_array(path: Path, name: str, member: Member) -> np.ndarray:
    """Return an array of a file, mapped from disk where it is large.

    Raises
    ------
    UserError: it is damaged, or of another type than numbers.
    """
    if member.dtype.kind not in "buif":
        raise UserError(f"{path}: the array {name!r} holds {_kind(member.dtype)}: save numbers alone")
    if not math.prod(member.shape):
        raise UserError(f"{path}: the array {name!r} has shape {member.shape}: it is empty")
    order: Any = "F" if member.by_columns else "C"
    with _one_line(path), zipfile.ZipFile(path) as archive:
        if not stream.is_large(math.prod(member.shape), member.dtype):
            content = bytearray().join(_parts(path, archive, member))
            return np.frombuffer(content, dtype=member.dtype).reshape(member.shape, order=order)
        if member.by_columns:
            raise UserError(f"{path}: the array {name!r} is large, and lies column by column: save it row by row")
        if member.info.compress_type == zipfile.ZIP_STORED:
            at = _start(path, member)
            return np.memmap(path, dtype=member.dtype, mode="r", offset=at, shape=member.shape)
        return stream.on_disk(_parts(path, archive, member), member.dtype, member.shape, path)


def pick(path: Path, found: Mapping[str, Member], asked: str | None, usual: tuple[str, ...], option: str) -> str | None:
    """Return the name of the array that was asked for, else the first of the usual ones; None where it has none."""
    if asked is None:
        return next((name for name in usual if name in found), None)
    try:
        return choose(asked, found, f"array ({option}=...)")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_npz(path: str | PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays by their names, as they are; those that are None are left out.

    The file appears whole or not at all.

    Raises
    ------
    UserError: the folder does not exist or cannot be written.
    """
    given = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    with atomic(path) as file:
        np.savez(file, **given)  # type: ignore[arg-type]


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what is raised about a file into one line."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGED as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged, or no NPZ file that numpy.savez wrote: {cause}") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """Return what a member of the archive is, when its sizes agree with one another."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {info.filename!r} is packed as numpy.savez_compressed does not: save it with that")
    with archive.open(info) as file:
        shape, by_columns, dtype, length = _header(file)
    member = Member(info, dtype, shape, by_columns, length)
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else BEST_RATIO
    says = f"{path} is damaged: the header of {info.filename!r} says shape {shape}"
    if dtype.hasobject:
        raise UserError(f"{path}: {info.filename!r} holds Python objects, which are not read: save numbers alone")
    if member.num_bytes + length != info.file_size or info.file_size > ratio * info.compress_size:
        raise UserError(f"{says}, which takes {member.num_bytes:,} bytes, and it holds others")
    return member


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the header of a later one may be gigabytes long
        raise ValueError(f"an array is of version {version} of the format, and not (1, 0)")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if any(size < 0 for size in shape):
        raise ValueError(f"an array has shape {shape}")
    return shape, by_columns, dtype, file.tell()


def _parts(path: Path, archive: zipfile.ZipFile, member: Member) -> Iterator[bytes]:
    """Yield the bytes of the numbers; the archive checks their sum at the end."""
    left = member.num_bytes
    with archive.open(member.info) as file:
        file.read(member.length)
        while part := file.read(CHUNK_BYTES):
            left -= len(part)
            yield part
    if left:
        raise UserError(f"{path} is damaged: {member} ends too early")


def _start(path: Path, member: Member) -> int:
    """Return where in the file the numbers of a member begin that is stored as it is."""
    size = struct.calcsize(LOCAL_HEADER)
    with path.open("rb") as file:
        file.seek(member.info.header_offset)
        mark, name, extra = struct.unpack(LOCAL_HEADER, file.read(size))
        start = member.info.header_offset + size + name + extra + member.length
        if mark != START or start + member.num_bytes > path.stat().st_size:
            raise UserError(f"{path} is damaged: {member} does not lie where the list of its arrays says")
    return start


def _kind(dtype: np.dtype) -> str:
    return {"U": "text", "S": "text", "c": "complex numbers", "M": "dates"}.get(dtype.kind, f"values of type {dtype}")
