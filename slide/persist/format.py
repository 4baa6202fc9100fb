"""Saved networks: a folder of arrays (NumPy's .npy) and one JSON file, never a pickle.

The format, version 2
---------------------
``network.json`` is one object:

- ``format`` (``"slide-network"``), ``version`` (2) and ``slide``, the version of the package that wrote it;
- ``n_features``, ``n_labels``, ``step``: sizes, and the number of optimizer steps so far;
- ``config``: the `slide.NetworkConfig` as nested plain values; a setting that is left out has its default;
- ``layout``: ``"arrays"``; ``"rows"`` where the rows lie as the kernels read them; or ``"shards"`` where several
  processes wrote it (version 3; see `slide.persist.shards`);
- ``moments``: whether the optimizer's state is there, so that training can go on;
- ``training``, null without moments: ``settled_at``, the last step at whose end no row was behind; and ``tables``, the
  state of each layer's hash tables (``NeuronIndex.state``: how often and at which step they were built, when they are
  due, and the generation of their hash functions, which are drawn from the seed and the generation);
- ``index``: statistics of the output's tables, to look at.

Beside it are little-endian arrays in C order, by name:

- ``hidden.N.weights``, ``output.weights``: float32 [rows, columns], also where the network stores bfloat16, for every
  bfloat16 number is a float32 number. The rows of the first hidden layer are features unless it is sampled; all other
  rows are units, or labels;
- ``hidden.N.bias``, ``output.bias``: float32 [units or labels];
- ``feature_weights``: float32 [n_features], if the configuration has any;
- with the layout ``"rows"``, ``hidden.N.rows`` and ``output.rows`` in place of a layer's weights and of the biases of
  its rows: an array of records with the fields ``bias`` and ``weights`` (bfloat16 as uint16), 64 bytes and then the
  weights, padded to 64 bytes. ``np.load(file, mmap_mode="r")["weights"]`` is a matrix; ``load(mmap=True)`` computes
  with the file as it is;
- with moments, for each layer ``m``, ``v``, ``bias_m``, ``bias_v`` (Adam) or ``accumulator``, ``bias_accumulator``
  (Adagrad); ``last_step``, int32, the last step that reached each row; and ``codes``, uint32 [l, rows], the bucket of
  each row in each hash table when the table was built (tables are rebuilt from them). Where rows are behind, also
  ``optimizer.log_keep``, ``.steps``, ``.nodes``, ``.first_root`` and ``.measures`` (see `slide.rows.optimizer`).

Training needs nothing more to go on: all draws are functions of the seed and the step. A checkpoint of a run has more
files, which `slide.train.checkpoints` describes.

Version 1 had no ``layout``, no ``training`` and no codes; it is still read, and its tables are built anew before the
next batch. Later versions are refused, by number.

A folder is written under another name, flushed to the disk and renamed when it is complete, so that a reader never
finds half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from slide.config.dicts import to_dict
from slide.files.fields import read_json
from slide.files.npy import map_array, write_blocks
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.kernels.rows import RowTable
from slide.model.stack import LayerStack
from slide.persist.checks import CheckpointError, Files, check_kind
from slide.system.info import __version__

INT32_MAX = 2**31 - 1
FORMAT = "slide-network"
VERSION = 2
SHARDED_VERSION = 3
"""Version of a network that several processes wrote; readers of version 2 would not understand it."""

READABLE = (1, VERSION, SHARDED_VERSION)
MANIFEST = "network.json"

HISTORY, FORMER_HISTORY = "history.jsonl", "history.former.jsonl"
"""Files with histories of training (`slide.runs.history`): the history of the last run and, until that run has saved a
network, the history of the network that was saved before."""

ONE_FILE = ".safetensors"
"""End of the name of a network in one file; see `slide.persist.safetensors`."""

NEVER_NEGATIVE = ("v", "bias_v", "accumulator", "bias_accumulator", "last_step")
"""Arrays of a layer that have no negative values."""


class Arrays(Protocol):
    """A reader of the arrays of a saved network."""

    @property
    def manifest(self) -> Path:
        """Return the file that describes the network."""

    def name(self, name: str) -> Path | str:
        """Return where an array is, for messages."""

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | BFloat16View:
        """Return an array; CheckpointError if it is not there or not as expected."""


class Source(Files, Arrays, Protocol):
    """A reader of the JSON and the arrays of a saved network, whichever kind of files it has."""

    def about(self) -> object:
        """Return what ``network.json`` says."""

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array; CheckpointError if it is not there or not as expected."""


def read_manifest(path: Path) -> object:
    """Return what ``network.json`` in a folder says; CheckpointError if there is no such file, or it is damaged."""
    try:
        return read_json(path / MANIFEST)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a saved network: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: {error}") from None


class Folder:
    """The files of a saved network, an array in each; see `Source`."""

    def __init__(self, path: Path):
        self._path = path
        self.manifest = path / MANIFEST

    def about(self) -> object:
        """Return what ``network.json`` says."""
        return read_manifest(self._path)

    def name(self, name: str) -> Path:
        """Return where an array is, for messages."""
        return self._path / f"{name}.npy"

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there."""
        file = self.name(name)
        return file.stat().st_size if file.is_file() else 0

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array, mapped into memory; CheckpointError if it is not there, damaged or not as expected."""
        file = self.name(name)
        return np.asarray(map_file(file, lambda found, kind: check_kind(file, found, kind, shape, dtype)))


def map_file(file: Path, check: Callable[[tuple[int, ...], np.dtype], None] | None = None) -> np.memmap:
    """See `slide.files.npy.map_array`; CheckpointError if the file cannot be read, or is damaged."""
    try:
        return map_array(file, check)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}; the network was not saved completely or is damaged") from None


def manifest(layers: LayerStack, *, moments: bool, layout: str) -> dict:
    """Return what ``network.json`` says; `layout` is ``"arrays"``, ``"rows"`` or ``"shards"``."""
    index, training = layers.output.index, None
    if moments:
        training = {"settled_at": layers.optimizer.settled_at, "tables": table_states(layers)}
    return {
        "format": FORMAT,
        "version": SHARDED_VERSION if layout == "shards" else VERSION,
        "slide": __version__,
        "n_features": layers.n_features,
        "n_labels": layers.n_labels,
        "step": layers.step,
        "layout": layout,
        "moments": moments,
        "training": training,
        "config": to_dict(layers.config),
        "index": None if index is None else index.statistics(),
    }


def table_states(layers: LayerStack) -> dict[str, dict]:
    """Return when each layer's hash tables were built and are due again, by the names under which they are saved."""
    return {layers.table_name(layer.name): layer.index.state() for layer in layers if layer.index is not None}


def training_arrays(layers: LayerStack) -> dict[str, np.ndarray]:
    """Return more arrays that training needs to go on: the steps that rows are behind, and the codes of the tables."""
    arrays = {f"optimizer.{name}": array for name, array in layers.optimizer.state().items()}
    for layer in layers:
        if layer.index is not None and layer.index.rebuilds:
            arrays[f"{layers.table_name(layer.name)}.codes"] = layer.index.codes
    return arrays


def in_rows(layers: LayerStack) -> set[str]:
    """Return the names of the arrays that are in the rows of a network saved for serving."""
    return {
        f"{layer.name}.{part}"
        for layer in layers
        for part in (("weights", "bias") if layer.rows_are_units else ("weights",))
    }


def write_array(file: BinaryIO, array: np.ndarray | BFloat16View) -> None:
    """Write an array, a block at a time; numbers stored as bfloat16 are written as float32."""
    write_blocks(file, array.dtype, array.shape, (array[block] for block in blocks(array.shape)))


def write_rows(file: BinaryIO, table: RowTable) -> None:
    """Write a table's rows as records, a block at a time."""
    dtype = RowTable.record_dtype(table.dim, stored_precision(table.precision))
    weights, bias = table.weights, table.bias
    stored = weights.bits if isinstance(weights, BFloat16View) else weights

    def records() -> Iterator[np.ndarray]:
        for block in blocks(stored.shape):
            some = np.zeros(block.stop - block.start, dtype)
            some["bias"], some["weights"] = bias[block], stored[block]
            yield some.view(np.uint8)

    write_blocks(file, dtype, (table.n_rows,), records())


def stored_precision(precision: str) -> str:
    """Return the precision of the saved rows, which have no moments, of a network of this precision."""
    return "bf16" if precision == "bf16" else "fp32"
