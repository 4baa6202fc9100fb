"""What is fuzzed: a target makes files of bytes and has the package read them; what is undocumented is a finding."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from .limits import memory

MIB = 1 << 20

SEEDS = Path(__file__).resolve().parents[2] / "tests" / "fuzz"
"""Inputs to begin with, ``seeds/<target>``, and those that once found something, ``findings/<target>``."""


class Finding(Exception):
    """An input that does what no input should.

    Attributes
    ----------
    key : str
        The same for findings that are likely to be one: the kind of fault and where the package raised it.
    """

    def __init__(self, key: str, text: str):
        super().__init__(f"{key}\n{text}")
        self.key = key


class Target(ABC):
    """A reader.

    Attributes
    ----------
    name : str
    documented : tuple of exception types
        What the reader's docstring says it raises on what is wrong with a file.
    """

    name: str
    documented: tuple[type[Exception], ...]

    @abstractmethod
    def write(self, data: bytes, folder: Path) -> Path:
        """Make the files that bytes stand for in an empty folder.

        Parameters
        ----------
        data : bytes
        folder : Path

        Returns
        -------
        Path
            What ``read`` is given, and what every message must name.
        """

    @abstractmethod
    def read(self, path: Path, data: bytes) -> None:
        """Have the package read the files, use what comes of it, and assert that it is sound.

        Parameters
        ----------
        path : Path
        data : bytes
            What the files were made of.
        """

    def allowance(self, path: Path, data: bytes) -> int:
        """Return the bytes of memory that reading may take: by default 64 MiB, and 256 for each byte of the file."""
        return 64 * MIB + 256 * len(data)

    def seeds(self) -> dict[str, bytes]:
        """Return inputs to begin with by name, for ``python -m tools.fuzz seeds`` to write down."""
        return {}

    def examine(self, data: bytes) -> bool:
        """Try an input.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        bool
            Whether it was read; False if it was refused as it should be.

        Raises
        ------
        Finding
        """
        with tempfile.TemporaryDirectory(prefix="slide-fuzz.", dir=_room()) as folder:
            path = self.write(data, Path(folder))
            try:
                with memory(self.allowance(path, data)), warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    self.read(path, data)
            except self.documented as error:
                if isinstance(error, UnicodeError) or str(path) not in str(error):
                    raise Finding(f"unnamed {_where(error)}", _report(error)) from None
                return False
            except Exception as error:
                raise Finding(_where(error), _report(error)) from None
        return True


def _room():
    """The folder of temporary files that is memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _where(error):
    """The kind of an exception and the line of the package that it comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/slide/" in f.filename]
    if not frames:
        frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}"
    return f"{type(error).__name__} in {place}"


def _report(error):
    return "".join(traceback.format_exception(error))[-4000:]
