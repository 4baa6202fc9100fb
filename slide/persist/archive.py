"""A network as bytes: its saved folder in an uncompressed zip file, for pickles and copies.

What is inside is what `slide.persist.saved_network` writes and checks; nothing in it is executed when it is read.
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
from slide.model.stack import LayerStack
from slide.persist import saved_network
from slide.persist.checks import CheckpointError

N = TypeVar("N", bound=BaseNetwork)


def pack(layers: LayerStack) -> bytes:
    """Return a network as bytes, with the optimizer's moments if it has any.

    Parameters
    ----------
    layers : LayerStack
    """
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="slide.") as folder:
        saved = Path(folder) / "network"
        saved_network.save(layers, saved, moments=layers.trainable)
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(saved.iterdir()):
                archive.write(file, file.name)
    return packed.getvalue()


def unpack(packed: bytes, make: Callable[..., N]) -> N:
    """Return the network that ``pack`` was given, to run on all cores this process may use.

    Parameters
    ----------
    packed : bytes
    make : callable
        Makes the network; see `slide.persist.saved_network.load`.

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
        return saved_network.load(folder, make)
