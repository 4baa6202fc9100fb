"""Parsed text files, kept as NumPy archives so that the next run need not parse them again.

An entry is found by the path of the source and the options it was read with, and is valid for one size and
modification time of the source. Nothing that goes wrong here stops a run: a damaged entry is made anew, an
unwritable folder is left alone, and both are logged.
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
"""Raised whenever a reader gives another result for the same file and options."""

logger = logging.getLogger("slide")


def default_folder() -> Path | None:
    """Return ``$SLIDE_CACHE_DIR``, ``$XDG_CACHE_HOME/slide`` or ``~/.cache/slide``; None without a home."""
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
        The folder of the cache; created when first written to.
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
        """Return the entry of a file as it is now.

        Parameters
        ----------
        source : Path
            The file that is parsed.
        options : dict
            Whatever else the result depends on; must survive JSON.
        folder : Path
            The folder of the cache.

        Returns
        -------
        CacheEntry

        Raises
        ------
        OSError
            If there is no such source.
        """
        stat = source.stat()
        identity = json.dumps([CACHE_VERSION, str(source.absolute()), options], sort_keys=True)
        key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return cls(source, folder, key, stat.st_size, stat.st_mtime_ns)

    @property
    def path(self) -> Path:
        """The file that holds the parsed arrays, present or not."""
        return self.folder / f"{self.key}-{self.size}-{self.mtime_ns}.npz"

    def read(self) -> Dataset | None:
        """Return the parsed data set, or None where there is none that can be used."""
        if not self.path.exists():
            return None
        try:
            return read_npz(self.path)
        except (DataError, OSError) as error:
            logger.warning("the cached copy of %s cannot be used, parsing it again: %s", self.source, error)
            return None

    def write(self, dataset: Dataset) -> None:
        """Keep a parsed data set and drop what was kept of former versions of the source.

        Nothing is kept if the source has changed meanwhile: it is not known which version was parsed.

        Parameters
        ----------
        dataset : Dataset
            What the source holds.
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
