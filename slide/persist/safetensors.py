"""Networks in one safetensors file, which other programs can read too.

A ``.safetensors`` file has the arrays of a saved network under the names of `slide.persist.format`, all float32. Its
metadata have, under ``slide``, what ``network.json`` says. It has weights only, for exchange and prediction. It needs
the package safetensors, an extra.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np

from slide.files.atomic import write_in_place
from slide.kernels import dtypes
from slide.model.stack import LayerStack
from slide.persist.checks import CheckpointError, checked
from slide.persist.format import manifest
from slide.system.extras import load_extra

KEY = "slide"
"""Key of the description in the file's metadata."""


def save_safetensors(layers: LayerStack, path: str | os.PathLike) -> None:
    """Write a network's weights to a safetensors file, which appears complete or not at all.

    The weights are copied in memory while they are written.

    Raises
    ------
    MissingExtra
        The package safetensors is missing.
    OSError
        The file cannot be written; a file of that name from before is unchanged.
    """
    path = Path(path)
    save = _package("safetensors.numpy").save
    about = manifest(layers, moments=False, layout="arrays")
    arrays = layers.parameters(moments=False)
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_in_place(path, lambda file: file.write(save(tensors, {KEY: json.dumps(about)})))


class SafetensorsFile:
    """A network in a safetensors file, read in the same way as a folder; see `slide.persist.format.Source`.

    Raises
    ------
    CheckpointError
        There is no such file, or it is damaged.
    MissingExtra
        The package safetensors is missing.
    """

    def __init__(self, path: Path):
        self.manifest, package = path, _package("safetensors")
        if not path.is_file():
            raise CheckpointError(f"{path} is not a saved network: there is no such file")
        try:
            self._file = package.safe_open(path, framework="numpy")
        except (OSError, ValueError, package.SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}; the file is damaged, or no safetensors file") from None

    def about(self) -> object:
        """Return what ``network.json`` would say in a folder."""
        text = (self._file.metadata() or {}).get(KEY)
        if text is None:
            raise CheckpointError(
                f"{self.manifest}: has no {KEY!r} in its metadata, so that the network's configuration is not known. "
                "To start a network from vectors of another program, call Network.initialize(features, labels)"
            )
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.manifest}, metadata {KEY!r}: {error}") from None

    def name(self, name: str) -> str:
        """Return where an array is, for messages."""
        return f"{self.manifest}, {name}"

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there."""
        if name not in self._file.keys():  # noqa: SIM118 - no mapping
            return 0
        return int(np.prod(self._file.get_slice(name).get_shape())) * dtypes.VALUE.itemsize

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array; CheckpointError if it is not there, or not as expected."""
        if not self.size(name):
            raise CheckpointError(f"{self.manifest} has no array {name!r}")
        return checked(self.name(name), self._file.get_tensor(name), shape, dtype)


def _package(name: str) -> ModuleType:
    return load_extra(name, "safetensors", "a .safetensors file")
