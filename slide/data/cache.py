"""Parsed text files, kept as NumPy archives so that they are parsed once.

An entry is found by the path of the source and the options that it was read with. It is valid for one size and
modification time of the source. No fault of the cache stops a program: a damaged entry is made anew, a folder that
cannot be written to is left alone, and both are logged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from slide.data.dataset import DataError, Dataset
from slide.data.npz import read_npz, save_npz

CACHE_VERSION = 1
"""Version of the entries, raised whenever a reader gives another result for the same file and options."""

logger = logging.getLogger("slide")


def default_folder() -> Path | None:
    """Return ``$SLIDE_CACHE_DIR``, ``$XDG_CACHE_HOME/slide`` or ``~/.cache/slide``; None if there is no home folder."""
    if folder := os.environ.get("SLIDE_CACHE_DIR"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "slide")
    try:
        return Path.home() / ".cache" / "slide"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class CacheEntry:
    """The place of one source, read with one set of options, in the cache.

    Attributes
    ----------
    source : Path
        The file that is parsed.
    folder : Path
        The folder of the cache, made when it is first written to.
    key : str
        Digest of the source's path and of the options.
    size, mtime_ns : int
        The source's size in bytes and its modification time in nanoseconds.
    """

    source: Path
    folder: Path
    key: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, source: Path, options: dict, folder: Path) -> CacheEntry:
        """Return the entry of a file as it is now; raises OSError if there is no such file.

        Parameters
        ----------
        options : dict
            Everything else that the result depends on, as plain values that JSON has.
        """
        stat = source.stat()
        identity = json.dumps([CACHE_VERSION, str(source.absolute()), options], sort_keys=True)
        key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return cls(source, folder, key, stat.st_size, stat.st_mtime_ns)

    @property
    def path(self) -> Path:
        """The file for the parsed arrays, which need not exist."""
        return self.folder / f"{self.key}-{self.size}-{self.mtime_ns}.npz"

    def read(self) -> Dataset | None:
        """Return the parsed data set, or None if the cache has none that can be used."""
        if not self.path.exists():
            return None
        try:
            return read_npz(self.path)
        except (DataError, OSError) as error:
            logger.warning("the cached copy of %s cannot be used, parsing it again: %s", self.source, error)
            return None

    def write(self, dataset: Dataset) -> None:
        """Keep the parsed data set, and remove those of former versions of the source.

        Nothing is kept if the source has changed meanwhile, because it is not known which version was parsed.
        """
        try:
            stat = self.source.stat()
            if (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns):
                logger.warning("%s changed while it was read; it is not cached", self.source)
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            save_npz(self.path, dataset)
            for former in self.folder.glob(f"{self.key}-*.npz"):
                if former != self.path:
                    former.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s is not cached, it will be parsed each time: %s", self.source, error)
