"""A network as bytes: its saved folder in an uncompressed zip file, for pickles and copies.

What is inside is what `slide.checkpoint` writes and checks; nothing in it is executed when it is read.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from pathlib import Path

from slide import checkpoint
from slide.network import Network
from slide.saved_checks import CheckpointError


def pack(network: Network) -> bytes:
    """Return a network as bytes, with the optimiser's moments if it has any.

    Parameters
    ----------
    network : Network
    """
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        saved = Path(folder) / "network"
        checkpoint.save(network, saved, moments=network.trainable)
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(saved.iterdir()):
                archive.write(file, file.name)
    return packed.getvalue()


def unpack(packed: bytes) -> Network:
    """Return the network that ``pack`` was given, to run on all cores this process may use.

    Parameters
    ----------
    packed : bytes

    Raises
    ------
    CheckpointError
        The bytes are no packed network, or are damaged, incomplete or of another version.
    """
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                # As they were packed: no file is larger than the bytes that stand for it.
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise zipfile.BadZipFile("a file in it is compressed")
                archive.extractall(folder)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
            raise CheckpointError(f"these bytes are no packed network: {error}") from None
        return checkpoint.load(folder)
