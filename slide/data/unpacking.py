"""Reads text from gzip and xz files within bounds, since a file can ask for any memory and unpack to any size."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path

from slide.data.dataset import DataError

XZ_MEMORY = 128 << 20
"""Memory limit of unpacking xz: twice the dictionary of ``xz -9``."""

FREE_BYTES = 64 << 20
"""Number of bytes that any file may unpack to."""

MAX_RATIO = 200
"""Largest ratio of unpacked to packed size, beyond `FREE_BYTES`. Text of samples packs 3 to 20 times."""

PIECE_BYTES = 1 << 16


class UnpackedFile(io.RawIOBase):
    """The text of a packed file.

    Parameters
    ----------
    packing : str
        ``"gzip"`` or ``"xz"``.

    Raises
    ------
    DataError
        While reading: the file unpacks to far more than text of samples does.
    EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError
        While reading: the file is damaged, or asks for too much memory.
    """

    def __init__(self, path: Path, packing: str):
        self._path = path
        self._file: gzip.GzipFile | _XzFile = gzip.GzipFile(path, "rb") if packing == "gzip" else _XzFile(path)
        self._most = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
        self._unpacked = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer) -> int:
        """Read some bytes, and return how many; 0 at the end."""
        count = self._file.readinto(buffer)
        self._unpacked += count
        if self._unpacked > self._most:
            raise DataError(
                f"{self._path}: the file unpacks to more than {self._most:,} bytes, {MAX_RATIO} times its size, as no "
                "text of samples does: it is damaged, or was made to fill memory. Unpack it yourself if you trust it"
            )
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _XzFile(io.RawIOBase):
    """The text of an xz file, as `lzma.LZMAFile` reads it, but with a limit on memory."""

    def __init__(self, path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close
        self._decoder = _decoder()
        self._packed = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while True:
            if self._decoder.eof:
                # Several streams may follow one another, with zeros between them.
                self._packed = self._decoder.unused_data.lstrip(b"\0")
                while not self._packed:
                    piece = self._file.read(PIECE_BYTES)
                    if not piece:
                        return 0
                    self._packed = piece.lstrip(b"\0")
                self._decoder = _decoder()
            if self._decoder.needs_input and not self._packed:
                self._packed = self._file.read(PIECE_BYTES)
                if not self._packed:
                    raise EOFError("the xz stream does not end")
            text = self._decoder.decompress(self._packed, len(buffer))
            self._packed = b""
            if text:
                buffer[: len(text)] = text
                return len(text)

    def close(self):
        self._file.close()
        super().close()


def _decoder():
    return lzma.LZMADecompressor(memlimit=XZ_MEMORY)
