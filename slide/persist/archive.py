"""A network as bytes: its saved folder in an uncompressed zip file, for pickles and copies.

The zip file has the files that `slide.persist.saved_network` writes and checks. Reading it executes nothing.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slide.model.base import BaseNetwork
from slide.persist import saved_network
from slide.persist.checks import CheckpointError

N = TypeVar("N", bound=BaseNetwork)


def pack(save: Callable[..., None], *, moments: bool) -> bytes:
    """Return a network as bytes, given its ``save`` method."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        saved = Path(folder) / "network"
        save(saved, moments=moments)
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(saved.iterdir()):
                archive.write(file, file.name)
    return packed.getvalue()


def unpack(packed: bytes, make: Callable[..., N]) -> N:
    """Return the network that ``pack`` was given; it uses all cores that this process may use.

    `make` makes the network; see `slide.persist.saved_network.load`.

    Raises
    ------
    CheckpointError
        The bytes are not a packed network, or are damaged, incomplete or of another version.
    """
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                # `pack` compresses nothing. A compressed file could be far larger than the bytes that hold it.
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise zipfile.BadZipFile("a file in it is compressed")
                archive.extractall(folder)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
            raise CheckpointError(f"these bytes are not a packed network: {error}") from None
        return saved_network.load(folder, make)
