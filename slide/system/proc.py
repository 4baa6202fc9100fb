"""A system's files under /proc and /sys, or copies of some of them in another folder."""

from __future__ import annotations

import os
import re
from pathlib import Path


class System:
    """Reads small files of a tree that has ``proc`` and ``sys``, and remembers what it could not read.

    Parameters
    ----------
    root : path-like
        Root of the tree. Tests give another one than the system's own.

    Attributes
    ----------
    missing : dict
        Path -> reason, for each file that could not be read.
    """

    def __init__(self, root: str | os.PathLike = "/"):
        self.root = Path(root)
        self.missing: dict[str, str] = {}

    @property
    def is_real(self) -> bool:
        """Whether the tree is that of the running system, which system calls ask about."""
        return self.root == Path("/")

    def text(self, path: str) -> str | None:
        """Return a file's content, stripped; None if it cannot be read.

        Paths start at the root, such as ``"proc/meminfo"``.
        """
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError as error:
            self.missing[f"/{path}"] = (error.strerror or str(error)).lower()
            return None

    def number(self, path: str) -> int | None:
        """Return a file's content as an integer; None if it is not one."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def choice(self, path: str) -> str | None:
        """Return the choice in brackets of a file such as ``always [madvise] never``; None if there is none."""
        text = self.text(path)
        chosen = re.search(r"\[([^\]]+)\]", text or "")
        return chosen.group(1) if chosen else None

    def folders(self, path: str, pattern: str) -> list[str]:
        """Return the names in a folder that match a glob pattern, sorted; an empty list if there is no such folder."""
        return sorted(entry.name for entry in (self.root / path).glob(pattern))

    def table(self, path: str) -> dict[str, int]:
        """Return the numbers, by name, of a file of lines ``name: number kB`` or ``name number``; empty if missing.

        Numbers in kB are returned in bytes.
        """
        values = {}
        for line in (self.text(path) or "").splitlines():
            match = re.match(r"(?:Node \d+ )?([^\s:]+):?\s+(\d+)( kB)?", line)
            if match:
                values[match.group(1)] = int(match.group(2)) * (1024 if match.group(3) else 1)
        return values
