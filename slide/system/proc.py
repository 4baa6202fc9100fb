"""A system's files under /proc and /sys, or a copy of some of them elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path


class System:
    """Reads small files of a tree that has ``proc`` and ``sys``, and remembers what it could not read.

    Parameters
    ----------
    root : path-like
        Another tree than the system's own, for tests.

    Attributes
    ----------
    missing : dict
        The reason for each path that could not be read.
    """

    def __init__(self, root: str | os.PathLike = "/"):
        self.root = Path(root)
        self.missing: dict[str, str] = {}

    @property
    def is_real(self) -> bool:
        """Whether the tree is that of the running system, so that system calls speak of it too."""
        return self.root == Path("/")

    def text(self, path: str) -> str | None:
        """Return a file's content without the white space around it, None where it cannot be read.

        Parameters
        ----------
        path : str
            From the root on, such as ``"proc/meminfo"``.
        """
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError as error:
            self.missing[f"/{path}"] = (error.strerror or str(error)).lower()
            return None

    def number(self, path: str) -> int | None:
        """Return a file's content as an integer, None where it is none."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def choice(self, path: str) -> str | None:
        """Return the choice in force of a file such as ``always [madvise] never``."""
        text = self.text(path)
        chosen = re.search(r"\[([^\]]+)\]", text or "")
        return chosen.group(1) if chosen else None

    def folders(self, path: str, pattern: str) -> list[str]:
        """Return the names in a folder that match a glob pattern, sorted; none where there is no such folder."""
        return sorted(entry.name for entry in (self.root / path).glob(pattern))

    def table(self, path: str) -> dict[str, int]:
        """Return a file of lines ``name: number unit`` or ``name number``, sizes in kB as bytes; empty if missing."""
        values = {}
        for line in (self.text(path) or "").splitlines():
            match = re.match(r"(?:Node \d+ )?([^\s:]+):?\s+(\d+)( kB)?", line)
            if match:
                values[match.group(1)] = int(match.group(2)) * (1024 if match.group(3) else 1)
        return values
