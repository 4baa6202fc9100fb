"""Saved networks: write, describe, load and restore them, whichever kind of files they have.

`slide.persist.format` describes the files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TypeVar

import numpy as np

from slide.config import NetworkConfig
from slide.config.dicts import from_dict
from slide.files.atomic import new_folder, write_file
from slide.files.fields import read_count, shown
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.rows import RowTable
from slide.model.base import BaseNetwork
from slide.model.faults import NumericalFault, check_network
from slide.model.stack import LayerStack
from slide.persist.checks import CheckpointError, check_finite, check_sizes, check_tables
from slide.persist.format import (
    FORMAT,
    FORMER_HISTORY,
    HISTORY,
    INT32_MAX,
    MANIFEST,
    NEVER_NEGATIVE,
    ONE_FILE,
    READABLE,
    Arrays,
    Folder,
    Source,
    in_rows,
    manifest,
    stored_precision,
    training_arrays,
    write_array,
    write_rows,
)
from slide.persist.safetensors import SafetensorsFile, save_safetensors
from slide.persist.shards import MANIFEST as SHARDS
from slide.persist.shards import ShardedFolder, take_rows
from slide.rows.storage import MappedStorage
from slide.system.info import __version__

N = TypeVar("N", bound=BaseNetwork)


def save(
    layers: LayerStack,
    path: str | os.PathLike,
    *,
    moments: bool = False,
    serving: bool = False,
    beside: dict[str, bytes] | None = None,
) -> None:
    """Write a network to a folder or a file; see `Network.save` for the parameters and the errors."""
    path = Path(path)
    if moments and serving:
        raise ValueError("a network for serving has no moments; save it twice, under two names")
    if moments and not layers.trainable:
        raise ValueError("moments=True, but this network was made, or saved, without the optimizer's state")
    check_destination(path)
    layers.settle()
    try:
        check_network(layers, moments=moments)
    except NumericalFault as fault:
        raise fault.with_context(f"{path} was not written: ") from None
    if path.suffix == ONE_FILE:
        if moments or serving or beside:
            raise ValueError(f"{path}: a {ONE_FILE} file has only weights; to save more, choose the name of a folder")
        save_safetensors(layers, path)
        return
    with new_folder(path) as folder:
        for name, content in (beside or {}).items():
            write_file(folder / name, methodcaller("write", content))
        write(layers, folder, moments=moments, serving=serving)


def check_destination(path: str | os.PathLike) -> None:
    """Refuse to overwrite what is not a saved network.

    Raises
    ------
    FileExistsError
        `path` exists, is not a saved network, and is not a folder with only the history of a run that was killed before
        it saved a network.
    """
    path = Path(path)
    if not path.exists() or (path / MANIFEST).is_file():
        return
    # A run that was killed before it saved a network has left only its history.
    ours = path.is_dir() and all(file.name in (HISTORY, FORMER_HISTORY) for file in path.iterdir())
    if path.suffix == ONE_FILE:
        with contextlib.suppress(CheckpointError):
            ours = bool(describe(path))
    if not ours:
        raise FileExistsError(f"{path} exists and is not a saved network; choose another name or remove it")


def write(layers: LayerStack, folder: Path, *, moments: bool, serving: bool = False) -> None:
    """Write a network's files to an existing folder, as the network is now: rows that are behind stay behind."""
    arrays = layers.parameters(moments=moments)
    if moments:
        arrays |= training_arrays(layers)
    if serving:
        arrays = {name: array for name, array in arrays.items() if name not in in_rows(layers)}
        for layer in layers:
            write_file(folder / f"{layer.name}.rows.npy", partial(write_rows, table=layer.table))
    for name, array in arrays.items():
        write_file(folder / f"{name}.npy", partial(write_array, array=array))
    text = json.dumps(manifest(layers, moments=moments, layout="rows" if serving else "arrays"), indent=2)
    write_file(folder / MANIFEST, lambda file: file.write(text.encode()))


def load(
    path: str | os.PathLike, make: Callable[..., N], *, threads: int | None = None, mmap: bool = False
) -> N:
    """Read a saved network; see `Network.load` for the parameters and the errors.

    `make` makes the network: `Network`, or a class with the same parameters.
    """
    path = Path(path)
    about, source = describe(path), open_arrays(path)
    try:
        config = from_dict(NetworkConfig, about["config"])
        n_features, n_labels, _ = (read_count(about, name, INT32_MAX) for name in ("n_features", "n_labels", "step"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    trainable, as_rows = about.get("moments") is True, about.get("layout") == "rows"
    precision = stored_precision(config.precision)

    def records(name: str, n: int, dim: int) -> np.ndarray:
        rows = source.read(f"{name}.rows", (n,), RowTable.record_dtype(dim, precision))
        if mmap and rows.ctypes.data % 64:
            raise CheckpointError(
                f"{source.name(f'{name}.rows')}: the rows do not begin at a multiple of 64 bytes and cannot be mapped; "
                "load the network with mmap=False and save it again"
            )
        return rows

    if mmap and not as_rows:
        raise CheckpointError(
            f"{path} was not saved for serving, so it cannot be mapped; save it with serving=True, or write a copy "
            f"for serving: slide export {path} COPY --serving"
        )
    check_sizes(source, n_features, n_labels, config, rows=as_rows)
    if trainable:
        check_tables(source, n_features, n_labels, config)
    storage = MappedStorage(precision, records) if mmap else None
    try:
        network = make(n_features, n_labels, config, threads=threads, trainable=trainable, storage=storage)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    layers = network.layers
    _fill(layers, _Records(source, layers, records) if as_rows and not mmap else source, about)
    return network


def restore(network: BaseNetwork, path: Path) -> None:
    """Make a network equal, to the bit, to a saved one with moments; what it has learnt is lost.

    Parameters
    ----------
    network : BaseNetwork
        Trainable, and of the saved network's sizes and configuration. If it has the neurons of only some labels, only
        those are read.
    path : Path
        Folder of the saved network.

    Raises
    ------
    CheckpointError
        The folder is damaged, incomplete, of another version or of another network. If it is damaged, `network` must
        not be used any more.
    """
    about = describe(path)
    found = tuple(about.get(name) for name in ("n_features", "n_labels", "moments"))
    if found != (network.n_features, network.n_labels, True) or not network.trainable:
        raise CheckpointError(
            f"{path} has a network of {found[0]} features and {found[1]} labels, moments {found[2]}; this one has "
            f"{network.n_features} and {network.n_labels}, and {'can' if network.trainable else 'cannot'} be trained"
        )
    source = open_arrays(path)
    _fill(network.layers, source, about)
    network.restored(source)


def describe(path: str | os.PathLike) -> dict:
    """Return what ``network.json`` of a saved network says, without reading the arrays.

    Parameters
    ----------
    path : path-like
        Folder or ``.safetensors`` file.

    Returns
    -------
    dict
        As `slide.persist.format` describes it; only ``format`` and ``version`` have been checked.

    Raises
    ------
    CheckpointError
        The folder is not a saved network, or is of another version.
    """
    source = open_arrays(Path(path))
    about = source.about()
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{source.manifest}: not a {FORMAT} file")
    if about.get("version") not in READABLE:
        raise CheckpointError(
            f"{source.manifest}: format version {shown(about.get('version'))}, this slide {__version__} reads versions "
            f"{READABLE[0]} to {READABLE[-1]}; a newer slide wrote it, or it is damaged"
        )
    return about


def open_arrays(path: Path) -> Source:
    """Return the reader of a saved network's JSON and arrays, which checks them."""
    if path.suffix == ONE_FILE and not path.is_dir():
        return SafetensorsFile(path)
    return ShardedFolder(path) if (path / SHARDS).is_file() else Folder(path)


class _Records:
    """Weights and biases, read from the rows of a network that was saved for serving."""

    def __init__(self, source: Source, layers: LayerStack, records: Callable[[str, int, int], np.ndarray]):
        self._source, self._records, self._in_rows = source, records, in_rows(layers)
        self._tables = {layer.name: layer.table for layer in layers}
        self.manifest = source.manifest

    def name(self, name: str) -> Path | str:
        """Return where an array is, for messages."""
        return self._source.name(name)

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | BFloat16View:
        """Return an array; see `slide.persist.format.Source`."""
        if name not in self._in_rows:
            return self._source.read(name, shape, dtype)
        prefix, _, part = name.rpartition(".")
        field = self._records(prefix, self._tables[prefix].n_rows, self._tables[prefix].dim)[part]
        return BFloat16View(field) if field.dtype == np.uint16 else field


def _fill(layers: LayerStack, source: Arrays, about: dict) -> None:
    """Read a saved network into the layers; of the output layer, only the rows that the layers have."""
    moments = about.get("moments") is True
    mapped = in_rows(layers) if layers.mapped else set()
    try:
        step = read_count(about, "step", INT32_MAX)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    for name, target in layers.parameters(moments=moments).items():
        if name in mapped:
            continue
        read_into(target, source, name, layers)
        part = name.rpartition(".")[2]
        check_finite(source.name(name), target, negative=part not in NEVER_NEGATIVE)
        if part == "last_step" and np.max(target) > step:
            raise CheckpointError(f"{source.name(name)}: has a step after the last, {step}")
    if not moments:
        return
    try:
        training: dict = about["training"] if about["version"] > 1 else {"settled_at": step, "tables": {}}
        optimizer, settled_at = layers.optimizer, read_count(training, "settled_at", step)
        history = {
            name: np.asarray(source.read(f"optimizer.{name}", shape, dtype))
            for name, (shape, dtype) in optimizer.state_layout(step - settled_at).items()
        }
        for name in {"log_keep", "steps", "nodes"} & set(history):
            check_finite(source.name(f"optimizer.{name}"), history[name])
        optimizer.restore(step, settled_at, history)
        for layer in layers:
            name = layers.table_name(layer.name)
            state = training["tables"].get(name)
            if layer.index is not None and state is None:
                # No tables were saved, or they cover other rows.
                layer.index.reset()
            elif layer.index is not None:
                codes = layer.index.codes if read_count(state, "rebuilds") else None
                if codes is not None:
                    codes = np.asarray(source.read(f"{name}.codes", codes.shape, codes.dtype))
                layer.index.restore(state, codes, layers.threads)
    except CheckpointError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}, 'training': {error!r}") from None


def read_into(target: np.ndarray | BFloat16View, source: Arrays, name: str, layers: LayerStack) -> None:
    """Read a saved array into an existing one; of an array of the output layer, only the rows that the layers have.

    Raises
    ------
    CheckpointError
        The array is damaged, incomplete or not as expected.
    """
    shape, rows = target.shape, range(len(target))
    here = layers.rows_here(name.removeprefix("best."))
    if here is not None:
        shape, rows = (here[0], *shape[1:]), here[1]
    for places, values in take_rows(source, name, shape, target.dtype, rows):
        target[places] = values
