"""Arrays in the IDX format of MNIST, plain or packed by gzip, and the folders that its like comes in.

A file is two bytes of zero, one that says the type of the numbers, one that says how many dimensions there are, the
size of each (big endian, four bytes), and the numbers.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from latentzoo.models.language import stream
from latentzoo.models.language.errors import UserError

File = IO[bytes] | gzip.GzipFile
Part = Literal["train", "test"]

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_DIMS = 8
PACKED = b"\x1f\x8b"
BEST_RATIO = 1032  # what a byte of gzip may unpack to
CHUNK_BYTES = 2**22

# As MNIST, Fashion-MNIST, KMNIST and EMNIST name their files: a name of the set, the part, what is in it.
_IMAGES = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)[-_]images[-._]idx\d[-_]ubyte(\.gz)?", re.IGNORECASE)


class Header(NamedTuple):
    """What the beginning of a file says: the type of the numbers, their shape, and how long it is itself, in bytes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    length: int

    @property
    def num_bytes(self) -> int:
        """How many bytes the numbers take."""
        size = self.dtype.itemsize
        for each in self.shape:
            size *= each
        return size

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.num_bytes // self.dtype.itemsize


def is_idx(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of this format, or of a damaged one."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] < 0x10


def read_idx(path: Path) -> np.ndarray:
    """Return the array of a file, mapped from disk where it is large.

    Raises
    ------
    UserError: the file is damaged, or holds more or fewer numbers than it says.
    """
    with one_line(path), path.open("rb") as raw:
        packed = raw.read(2) == PACKED
        raw.seek(0)
        if packed:
            with gzip.open(raw) as file:
                header = _header(path, file)
                _check_promise(path, header, BEST_RATIO * path.stat().st_size)
                return _unpacked(path, header, file)
        header = _header(path, raw)
        held = path.stat().st_size - header.length
        if held > header.num_bytes:
            raise _surplus(path, header)
        _check_promise(path, header, held)
        if stream.is_large(header.size, header.dtype):
            return np.memmap(path, dtype=header.dtype, mode="r", offset=header.length, shape=header.shape)
        return np.fromfile(raw, dtype=header.dtype, count=header.size).reshape(header.shape)


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what is raised about a file into one line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged, or was not copied whole: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _header(path: Path, file: File) -> Header:
    start = file.read(4)
    if not is_idx(start) or start[2] not in TYPES or not 1 <= start[3] <= MOST_DIMS:
        known = ", ".join(f"{code:02x}" for code in TYPES)
        rule = f"an IDX file has 00 00, one of {known}, and the number of dimensions, from 1 to {MOST_DIMS}"
        raise UserError(f"{path} begins with the bytes {start.hex(' ') or 'of nothing'}: {rule}")
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise UserError(f"{path} ends within its header: it is damaged, or was not copied whole")
    header = Header(np.dtype(TYPES[start[2]]), struct.unpack(f">{start[3]}I", sizes), 4 + len(sizes))
    if not header.size:
        raise UserError(f"{path} holds nothing: its header says {_sizes(header.shape)}")
    return header


def _check_promise(path: Path, header: Header, most: int) -> None:
    if header.num_bytes > most:
        promised = f"its header says {_sizes(header.shape)}, {header.num_bytes:,} bytes"
        raise UserError(f"{path} is damaged, or was not copied whole: {promised}, and the file is too short for them")


def _surplus(path: Path, header: Header) -> UserError:
    return UserError(f"{path} is damaged: it goes on after the {_sizes(header.shape)} numbers that its header says")


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _unpacked(path: Path, header: Header, file: File) -> np.ndarray:
    """Return the numbers of a packed file, of which no more is unpacked than its header says."""
    parts = _parts(path, header, file)
    if stream.is_large(header.size, header.dtype):
        return stream.on_disk(parts, header.dtype, header.shape, path)
    return np.frombuffer(bytearray().join(parts), dtype=header.dtype).reshape(header.shape)


def _parts(path: Path, header: Header, file: File) -> Iterator[bytes]:
    left = header.num_bytes
    while left:
        part = file.read(min(left, CHUNK_BYTES))
        if not part:
            _check_promise(path, header, header.num_bytes - left)
        left -= len(part)
        yield part
    if file.read(1):
        raise _surplus(path, header)


# --- folders, and labels beside images --------------------------------------------------------------------------------


def images_in(folder: Path) -> dict[Part, Path]:
    """Return the file of images of each part of the data set in a folder.

    Raises
    ------
    UserError: the folder cannot be read, has no such file, or files of several data sets.
    """
    with one_line(folder):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = {name: match for name in names if (match := _IMAGES.fullmatch(name))}
    if not found:
        words = "train-images-idx3-ubyte or train-images-idx3-ubyte.gz"
        raise UserError(f"{folder} has no file of images that is named as MNIST's are: {words}")
    sets = sorted({match["set"] for match in found.values()})
    if len(sets) > 1:
        raise UserError(f"{folder} holds {len(sets)} data sets ({', '.join(sets[:5])}): name a file of images of one")
    # Sorted, a file comes before the same one packed.
    parts: dict[Part, Path] = {}
    for name, match in found.items():
        parts.setdefault("train" if match["part"].lower() == "train" else "test", folder / name)
    return parts


def labels_beside(images: Path) -> Path | None:
    """Return the file of labels that lies beside a file of images, as MNIST's names have it; None where none does."""
    if "images" not in images.name:
        return None
    plain = re.sub(r"idx\d", "idx1", images.name.removesuffix(".gz")).replace("images", "labels")
    beside = (images.with_name(name) for name in (plain, f"{plain}.gz"))
    return next((path for path in beside if path.is_file()), None)
