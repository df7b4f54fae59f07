"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from latentzoo.models.language.errors import UserError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file's path, for libraries that open a file themselves.

    The file takes the place of `path` at the end, and not when something goes wrong.

    Raises
    ------
    UserError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic(path: str | os.PathLike[str], mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that takes the place of `path` when it is closed, and not when something goes wrong.

    Raises
    ------
    UserError: the folder does not exist or cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open(mode, **options) as file:
        yield file


def _replace(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _umask() -> int:
    """Return the process's mask: mkstemp makes files that only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
