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
"""Errors of writing to a file that is already open."""

OPEN = ("/dev/std", "/dev/fd/", "/proc/")
"""Beginnings of the names of files that a process has open."""

_HERE, _EXCHANGE = -100, 2
"""Linux's AT_FDCWD, for paths as they are, and RENAME_EXCHANGE, the flag that lets two names change places."""


class NotRegular(OSError):
    """The path is not a file of bytes but a pipe, a device or a socket, from which reading may never end."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file for reading, or a link to one.

    Raises
    ------
    NotRegular
        The path is a pipe, a device or a socket.
    IsADirectoryError
        The path is a folder.
    OSError
        The file cannot be opened.
    """
    # O_NONBLOCK: opening a pipe must not wait for a writer.
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
    """Yield a folder to fill, under a name that begins with a dot, which becomes `path` when the block ends.

    A folder that has this name already changes places with the new one at the last moment. Where the system can do so
    (Linux, on most file systems), this is one step; on others it takes two renames, between which nothing has the name.
    If the block raises, everything stays as it was. If the process is killed, the unfinished folder stays as well;
    `remove_unfinished` removes it.

    The caller checks whether `path` may be replaced, and writes files to the disk itself, as `write_file` does. If
    `path` is a link, the folder that it names is replaced. An OSError of making, filling or renaming the folder names
    `path`.
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
    """Make an OSError of writing name `path`, which the block writes, where it would name a temporary file or none.

    If the block writes temporary files and replaces `path` at its end, their names begin with `prefix`.
    """
    try:
        yield
    except OSError as error:
        temporary = prefix is not None and error.filename is not None and prefix in os.fsdecode(error.filename)
        # Errors of writing to an open file have no name; those with another name may be about a file that is read.
        if error.errno is not None and (temporary or (error.filename is None and error.errno in NO_ROOM)):
            kept = "" if prefix is None else "; it was not written, and what was there before is as it was"
            raise OSError(error.errno, os.strerror(error.errno) + kept, str(path)) from error
        raise


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file to the disk itself: once this has returned, a power cut does not lose it.

    `write` is called with the open file.
    """
    with open(file, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def write_in_place(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, to the disk itself, and rename it; if that fails, nothing of it is left.

    `write` is called with the open file. If `path` is a link, the file that it names is replaced. A pipe or a device is
    not replaced but written to.
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
    """Tell whether a path is a pipe, a device or an open file, which are written to and not replaced."""
    return (path.exists() and not path.is_file()) or os.fspath(path).startswith(OPEN)


def remove_folder(path: Path) -> None:
    """Remove a folder, so that it is there completely or not at all even if the process is killed meanwhile.

    Files that cannot be removed are left under a name that `remove_unfinished` finds.
    """
    with contextlib.suppress(OSError):
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.old.", dir=path.parent))
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes left in a folder that only `new_folder` writes to."""
    for folder in parent.glob(".*"):
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; return False if the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
