"""Files of bytes: opened whatever their compression, read in whole lines, replaced all at once."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import secrets
import string
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slide.data.dataset import DataError
from slide.data.unpacking import UnpackedFile
from slide.files.atomic import NotRegular, naming, open_regular

MAGIC = {
    "gzip": b"\x1f\x8b",
    "xz": b"\xfd7zXZ\x00",
    "zip": b"PK\x03\x04",
}
SUFFIXES = {".gz": "gzip", ".xz": "xz", ".npz": "zip"}
CHUNK_BYTES = 8 << 20


def sniff(path: Path) -> str:
    """Return how the bytes of a file are packed: ``"gzip"``, ``"xz"``, ``"zip"`` or ``"plain"``.

    The first bytes decide, not the suffix, so that a file that was renamed or unpacked in place is read for what it is.

    Raises
    ------
    DataError
        There is no such file; it is a folder, a pipe or empty; or it is named as an archive and is neither that nor
        text.
    """
    try:
        with open_regular(path) as file:
            head = file.read(max(map(len, MAGIC.values())))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder, and not one that `slide convert` wrote; give the file in it that is to be read"
        ) from None
    except NotRegular as error:
        raise DataError(f"{error}; write its bytes to a file first") from None
    if not head:
        raise DataError(f"{path} is empty; the file may not have been written to the end")
    for packing, magic in MAGIC.items():
        if head.startswith(magic):
            return packing
    named = SUFFIXES.get(path.suffix.lower())
    if named is not None and not all(byte in string.printable.encode() for byte in head):
        raise DataError(
            f"{path} is named as a {named} archive but does not start like one; it may be damaged"
        )
    return "plain"


def open_bytes(path: Path) -> io.RawIOBase:
    """Open a file of text, plain or packed with gzip or xz, for reading its unpacked bytes.

    Raises
    ------
    DataError
        The file is a zip archive, or `sniff` refuses it; while reading, `UnpackedFile` may refuse it.
    """
    packing = sniff(path)
    if packing in ("gzip", "xz"):
        return UnpackedFile(path, packing)
    if packing == "zip":
        raise DataError(f"{path} is a zip archive, which holds no text; unpack it, or read it as npz")
    return open(path, "rb", buffering=0)


def whole_lines(file: io.RawIOBase, path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Yield a file that `open_bytes` opened, in chunks that end with a newline or with the file.

    A chunk is valid until the next one is asked for.

    Parameters
    ----------
    chunk_bytes : int
        Size of a chunk. It grows where a line is longer.

    Raises
    ------
    DataError
        An archive is damaged or breaks off.
    """
    buffer = bytearray(chunk_bytes)
    filled = 0
    unpacked = 0
    while True:
        if filled == len(buffer):
            # A new buffer, not a larger one: the caller may still hold a view of this one.
            buffer = buffer + bytes(len(buffer))
        with memoryview(buffer) as view:
            try:
                count = file.readinto(view[filled:])
            except EOFError:
                raise DataError(
                    f"{path}: the archive breaks off after {unpacked:,} unpacked bytes; it is truncated, fetch it again"
                ) from None
            except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
                raise DataError(
                    f"{path}: the archive is damaged after {unpacked:,} unpacked bytes ({error}); fetch it again"
                ) from None
            filled += count
            unpacked += count
            if count == 0:
                if filled:
                    yield view[:filled]
                return
            if filled < len(buffer):
                continue
            cut = buffer.rfind(b"\n", 0, filled) + 1
            if cut == 0:
                continue
            yield view[:cut]
        filled -= cut
        buffer[:filled] = buffer[cut : cut + filled]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for the block to write, and rename that file to `path` at the end.

    Readers see the former file or the whole new one, never a part of it. An error or an interruption leaves the former.
    The folder must exist. An OSError of writing names `path`.
    """
    prefix = f".{path.name[:64]}."
    temporary = path.with_name(f"{prefix}{secrets.token_hex(8)}.partial")
    with naming(path, prefix):
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
