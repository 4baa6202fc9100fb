"""Folders and files that appear complete or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Why a file that is open cannot be written to."""

OPEN = ("/dev/std", "/dev/fd/", "/proc/")
"""How the names of files begin that a process has open."""

_HERE, _EXCHANGE = -100, 2
"""Of Linux: paths as they are, and the flag that lets two names change places."""


class NotRegular(OSError):
    """Something that is no file of bytes: a pipe, a device, a socket. To read one may take forever."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading, and nothing but a file: a link may lead to one, not to a pipe or a device.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    NotRegular
        It is something else.
    IsADirectoryError, OSError
        It is a folder, or cannot be opened.
    """
    # Without waiting for whoever would write to a pipe.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise NotRegular(f"{path} is a pipe or a device, not a file")
    return open(descriptor, "rb")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, under a name that begins with a dot, which becomes `path` when the block ends.

    Where there is a folder of that name the two change places at the last moment: at once where the system can do that
    (Linux, on most file systems), else by two renames, between which nothing has that name. A block that raises leaves
    everything as it was; a process that is killed leaves the unfinished folder too, which `remove_unfinished` clears
    away. Whether what is at `path` may be replaced is the caller's to check; files are to be on the disk when the block
    ends, as `write_file` sees to.

    Parameters
    ----------
    path : Path
        If it is a link, the folder that it names is replaced.

    Raises
    ------
    OSError
        The folder cannot be made, filled or renamed; it names `path`.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:64]}."
    with naming(path, prefix):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        try:
            folder.chmod(0o755)
            yield folder
            _sync(folder)
            if not path.exists():
                os.replace(folder, path)
            elif _exchange(folder, path):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                old = Path(tempfile.mkdtemp(prefix=f"{prefix}old.", dir=path.parent))
                os.replace(path, old)
                try:
                    os.replace(folder, path)
                except BaseException:
                    os.replace(old, path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    _sync(path.parent)


@contextlib.contextmanager
def naming(path: Path, prefix: str | None = None) -> Iterator[None]:
    """Let an OSError of a block name what could not be written in place of the temporary file, or of none.

    Parameters
    ----------
    path : Path
        What the block writes.
    prefix : str, optional
        With which the names of its temporary files begin, where it replaces `path` at its end.
    """
    try:
        yield
    except OSError as error:
        temporary = prefix is not None and error.filename is not None and prefix in os.fsdecode(error.filename)
        # Errors of writing to an open file have no name; others may be of a file that the block reads.
        if temporary or (error.filename is None and error.errno in NO_ROOM):
            kept = "" if prefix is None else "; it was not written, and what was there before is as it was"
            raise OSError(error.errno, os.strerror(error.errno) + kept, str(path)) from error
        raise


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
        If it is a link, the file that it names is replaced; if it is a pipe or a device, it is written to.
    write : callable
        Given the open file.
    """
    if is_device(path):
        with naming(path), open(path, "wb") as stream:
            write(stream)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:64]}."
    with naming(path, prefix):
        handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
        os.close(handle)
        try:
            os.chmod(name, 0o644)
            write_file(Path(name), write)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    _sync(path.parent)


def is_device(path: Path) -> bool:
    """Tell whether a path is of a pipe, a device or an open file, which are written to as they are and not replaced.

    Parameters
    ----------
    path : Path
    """
    return (path.exists() and not path.is_file()) or os.fspath(path).startswith(OPEN)


def remove_folder(path: Path) -> None:
    """Remove a folder that is there completely or not at all, whenever the process is killed.

    What cannot be removed is left, under a name that `remove_unfinished` knows.

    Parameters
    ----------
    path : Path
    """
    with contextlib.suppress(OSError):
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.old.", dir=path.parent))
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes left in a folder that only ``new_folder`` writes to.

    Parameters
    ----------
    parent : Path
    """
    for folder in parent.glob(".*"):
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(one, other):
    """Let two names change places at once; return whether the system could."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _sync(folder):
    """Have the disk know the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
