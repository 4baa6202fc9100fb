"""Text out of gzip and xz files, within bounds: a file can ask for any amount of memory and unpack to anything."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path

from slide.data.dataset import DataError

XZ_MEMORY = 128 << 20
"""What unpacking xz may take: twice what the dictionary of ``xz -9`` does."""

FREE_BYTES = 64 << 20
MAX_RATIO = 200
"""Beyond so many bytes a file must not unpack to more than so many times its size. Text of samples packs 3 to 20 times.
"""

PIECE_BYTES = 1 << 16


class UnpackedFile(io.RawIOBase):
    """The text of a packed file.

    Parameters
    ----------
    path : Path
    packing : {"gzip", "xz"}

    Raises
    ------
    DataError
        While reading: the file unpacks to far more than text of samples does.
    EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError
        While reading: it is damaged, or asks for too much memory.
    """

    def __init__(self, path: Path, packing: str):
        self._path = path
        self._file = gzip.open(path, "rb") if packing == "gzip" else _XzFile(path)  # noqa: SIM115 - closed by close
        self._most = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
        self._unpacked = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer) -> int:
        """Read some bytes, none at the end."""
        count = self._file.readinto(buffer)
        self._unpacked += count
        if self._unpacked > self._most:
            raise DataError(
                f"{self._path}: unpacks to more than {self._most:,} bytes, {MAX_RATIO} times its size, as no text of "
                "samples does: it is damaged, or was made to fill the memory. Unpack it yourself if you trust it"
            )
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _XzFile(io.RawIOBase):
    """What `lzma.LZMAFile` reads, with a limit on memory."""

    def __init__(self, path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close
        self._decoder = _decoder()
        self._packed = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while True:
            if self._decoder.eof:
                # Streams may follow one another, with zeros between.
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
