"""Folders and files that appear complete or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, under a name that begins with a dot, which becomes `path` when the block ends.

    Where there is a folder of that name it makes way at the last moment. A block that raises leaves everything as it
    was; a process that is killed leaves the unfinished folder too, which `remove_unfinished` clears away. Whether what
    is at `path` may be replaced is the caller's to check; files are to be on the disk when the block ends, as
    `write_file` sees to.

    Parameters
    ----------
    path : Path
        If it is a link, the folder that it names is replaced.

    Raises
    ------
    OSError
        The folder cannot be made or renamed.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", dir=path.parent))
    try:
        folder.chmod(0o755)
        yield folder
        _sync(folder)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.old.", dir=path.parent))
            os.replace(path, old)
            try:
                os.replace(folder, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(path.parent)


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file to the disk itself: when this returns, a power cut does not lose it.

    Parameters
    ----------
    file : Path
    write : callable
        Given the open file.
    """
    with open(file, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def write_in_place(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, to the disk itself, and rename it; nothing is left where that fails.

    Parameters
    ----------
    path : Path
    write : callable
        Given the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        os.chmod(name, 0o644)
        write_file(Path(name), write)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    _sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder: it is there whole or not at all; a process that is killed leaves what ``new_folder`` may leave.

    Parameters
    ----------
    path : Path
        What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        old = tempfile.mkdtemp(prefix=f".{path.name[:64]}.old.", dir=path.parent)
        os.replace(path, old)
        shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes left in a folder that only ``new_folder`` writes to.

    Parameters
    ----------
    parent : Path
    """
    for folder in parent.glob(".*"):
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder):
    """Have the disk know the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
