"""Saved networks: a folder of arrays (NumPy's .npy) and one JSON file, never a pickle.

The format, version 2
---------------------
``network.json`` is one object:

- ``format`` (``"slide-network"``), ``version`` (2) and ``slide``, the version of the package that wrote it;
- ``n_features``, ``n_labels``, ``step``: sizes, and the optimiser's steps so far;
- ``config``: the `slide.NetworkConfig` as nested plain values; what is left out has its default;
- ``layout``: ``"arrays"`` or, where the rows lie as the kernels read them, ``"rows"``, or, written by several processes
  (version 3; see `slide.shards`), ``"shards"``;
- ``moments``: whether the optimiser's state is there, so that training can go on;
- ``training``, null without moments: ``settled_at``, the last step at whose end no row owed anything, and ``tables``,
  by layer where its hash tables stand (``NeuronIndex.position``: how often and at which step they were built, when
  they are due, the generation of their hash functions, which are drawn from the seed and it);
- ``index``: statistics of the output's tables, to look at.

Beside it stand little-endian arrays in C order, by name:

- ``hidden.N.weights``, ``output.weights``: float32 [rows, columns], whatever the network stores them as, for bfloat16
  numbers are float32 numbers. The first hidden layer's rows are the features unless it is sampled, all others' are
  units, or labels;
- ``hidden.N.bias``, ``output.bias``: float32 [units or labels];
- ``feature_weights``: float32 [n_features], where the configuration has any;
- with the layout ``"rows"``, in place of a layer's weights and of the biases of its rows, ``hidden.N.rows`` or
  ``output.rows``: an array of records with the fields ``bias`` and ``weights`` (bfloat16 as uint16), 64 bytes and then
  the weights, padded to 64 bytes. ``np.load(file, mmap_mode="r")["weights"]`` is a matrix; ``load(mmap=True)`` computes
  with the file as it is;
- with moments, of each layer ``m``, ``v``, ``bias_m``, ``bias_v`` (Adam) or ``accumulator``, ``bias_accumulator``
  (Adagrad), and ``last_step``, int32, the step that last reached each row; ``codes``, uint32 [l, rows], the bucket of
  each row in each hash table when that was built, of which the tables are a function; and where rows owe something
  ``optimizer.log_keep``, ``.steps``, ``.nodes``, ``.first_root`` and ``.measures`` (see `slide.optimizer`).

Nothing else is needed to go on: all draws are functions of the seed and the step. A checkpoint of a run has more files,
which `slide.resume` describes.

Version 1 had neither ``layout`` nor ``training``, nor codes: its tables are built anew before the next batch. It is
still read. Versions to come are refused, by number.

A folder is written under another name, flushed to the disk and renamed when it is complete, so that a reader never
finds half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from slide.access import reads
from slide.checks import shown
from slide.config import NetworkConfig
from slide.faults import NumericalFault, check_network
from slide.folders import new_folder, open_regular, write_file
from slide.info import __version__
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.kernels.rows import RowTable
from slide.network import Network
from slide.npy import read_header
from slide.plain import read_count
from slide.saved_checks import CheckpointError, check_finite, check_kind, check_sizes, check_tables
from slide.settings import from_dict, to_dict
from slide.storage import MappedStorage

INT32_MAX = 2**31 - 1
FORMAT = "slide-network"
VERSION = 2
SHARDED_VERSION = 3
"""Of what several processes wrote, which those who read version 2 would not understand."""
READABLE = (1, VERSION, SHARDED_VERSION)
MANIFEST = "network.json"
HISTORY, FORMER_HISTORY = "history.jsonl", "history.former.jsonl"
"""Histories of training (`slide.history`): of the last run, and of the network saved before where that run has yet to
save one."""

ONE_FILE = ".safetensors"
"""How the name of a network in one file ends; see `slide.exchange`."""

NEVER_NEGATIVE = ("v", "bias_v", "accumulator", "bias_accumulator", "last_step")
"""Of a layer's arrays."""


@reads
def save(
    network: Network,
    path: str | os.PathLike,
    *,
    moments: bool = False,
    serving: bool = False,
    beside: dict[str, bytes] | None = None,
) -> None:
    """Write a network to a folder, replacing a saved network of that name.

    Parameters
    ----------
    network : Network
    path : path-like
        A name that ends in ``.safetensors`` makes one file; see `slide.exchange.save_safetensors`.
    moments : bool
        Also write the optimiser's moments, or what it accumulates, and what the hash tables are built from: with Adam
        three times the size and more, and training can go on from there.
    serving : bool
        Write rows as the kernels read them, so that ``load(mmap=True)`` opens the folder at once, whatever its size.
    beside : dict of bytes, optional
        More files for the folder, by name, which ``load`` does not look at.

    Raises
    ------
    FileExistsError
        `path` exists and is no saved network, nor empty or with a history alone.
    NumericalFault
        Something in the network is not finite; what was at `path` before is as it was.
    OSError
        The folder cannot be written; what was at `path` before is as it was.
    RuntimeError
        Another thread trains the network; see `slide.resume.Checkpoints` for saving on the way.
    ValueError
        `moments` are asked for together with `serving`, or of a network that has none.
    """
    path = Path(path)
    if moments and serving:
        raise ValueError("a network for serving has no moments; save it twice, under two names")
    if moments and not network.trainable:
        raise ValueError("moments=True, but this network was made, or saved, without the optimiser's state")
    check_destination(path)
    network.settle()
    try:
        check_network(network, moments=moments)
    except NumericalFault as fault:
        raise fault.told(f"{path} was not written: ") from None
    if path.suffix == ONE_FILE:
        from slide import exchange

        if moments or serving or beside:
            raise ValueError(f"{path}: a {ONE_FILE} file has weights alone; choose a folder's name for anything else")
        exchange.save_safetensors(network, path)
        return
    with new_folder(path) as folder:
        for name, content in (beside or {}).items():
            write_file(folder / name, lambda file, content=content: file.write(content))
        write(network, folder, moments=moments, serving=serving)


def check_destination(path: str | os.PathLike) -> None:
    """Refuse a place where something is that is neither a saved network nor left by a run that has yet to save one.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FileExistsError
        Such a place.
    """
    path = Path(path)
    if not path.exists() or (path / MANIFEST).is_file():
        return
    # A run that was killed has left no more than its history.
    ours = path.is_dir() and all(file.name in (HISTORY, FORMER_HISTORY) for file in path.iterdir())
    if path.suffix == ONE_FILE:
        with contextlib.suppress(CheckpointError):
            ours = bool(describe(path))
    if not ours:
        raise FileExistsError(f"{path} exists and is not a saved network; choose another name or remove it")


def write(network: Network, folder: Path, *, moments: bool, serving: bool = False) -> None:
    """Write a network's files to a folder that there is, as it stands: rows that owe something go on owing it.

    Parameters
    ----------
    network : Network
    folder : Path
    moments, serving : bool
        As for ``save``.
    """
    arrays = parameters(network, moments=moments)
    if moments:
        arrays |= of_training(network)
    if serving:
        arrays = {name: array for name, array in arrays.items() if name not in _in_rows(network)}
        for name, layer in layers_of(network).items():
            write_file(folder / f"{name}.rows.npy", lambda file, layer=layer: _write_rows(file, layer.table))
    for name, array in arrays.items():
        write_file(folder / f"{name}.npy", lambda file, array=array: write_array(file, array))
    text = json.dumps(manifest(network, moments=moments, layout="rows" if serving else "arrays"), indent=2)
    write_file(folder / MANIFEST, lambda file: file.write(text.encode()))


def load(path: str | os.PathLike, *, threads: int | None = None, mmap: bool = False) -> Network:
    """Read a saved network.

    Parameters
    ----------
    path : path-like
        A folder that ``save`` wrote, a checkpoint of a run, or a ``.safetensors`` file. It may come from anywhere:
        nothing in it is executed, and every array is checked before it is used.
    threads : int, optional
        As for `Network`.
    mmap : bool
        Predict from the file itself, which was saved with ``serving=True``: nothing is read before it is needed, so
        that a network of any size opens at once, and processes on one machine share its memory. Of the rows only the
        sizes are checked. The network cannot be trained.

    Returns
    -------
    Network
        Ready to predict; ready to train on if it was saved with its moments.

    Raises
    ------
    CheckpointError
        The folder is not a saved network, or is damaged, incomplete or of another version, or cannot be mapped.
    """
    path = Path(path)
    about, source = describe(path), open_arrays(path)
    try:
        config = from_dict(NetworkConfig, about["config"])
        n_features, n_labels, _ = (read_count(about, name, INT32_MAX) for name in ("n_features", "n_labels", "step"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    trainable, in_rows = about.get("moments") is True, about.get("layout") == "rows"
    precision = _weights_precision(config.precision)

    def records(name: str, n: int, dim: int) -> np.ndarray:
        rows = source.read(f"{name}.rows", (n,), RowTable.record_dtype(dim, precision))
        if mmap and rows.ctypes.data % 64:
            raise CheckpointError(
                f"{source.name(f'{name}.rows')}: the rows begin at no multiple of 64 bytes, so they cannot be mapped; "
                "load the network with mmap=False and save it again"
            )
        return rows

    if mmap and not in_rows:
        raise CheckpointError(
            f"{path} was not saved for serving, so it cannot be mapped; save it with serving=True, or write a copy "
            f"that can: slide export {path} COPY --serving"
        )
    check_sizes(source, n_features, n_labels, config, rows=in_rows)
    if trainable:
        check_tables(source, n_features, n_labels, config)
    storage = MappedStorage(precision, records) if mmap else None
    try:
        network = Network(n_features, n_labels, config, threads=threads, trainable=trainable, storage=storage)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    _fill(network, _Records(source, network, records) if in_rows and not mmap else source, about)
    return network


def restore(network: Network, path: Path) -> None:
    """Make a network what a saved one with moments is, to the bit; its weights and everything it has learnt are lost.

    Parameters
    ----------
    network : Network
        Trainable, and of the saved network's sizes and configuration. Where it has the neurons of some labels alone,
        those are read.
    path : Path

    Raises
    ------
    CheckpointError
        The folder is damaged, incomplete or of another version, or is of another network. If it is damaged, the
        network is not to be used.
    """
    about = describe(path)
    found = tuple(about.get(name) for name in ("n_features", "n_labels", "moments"))
    if found != (network.n_features, network.n_labels, True) or not network.trainable:
        raise CheckpointError(
            f"{path} is of a network of {found[0]} features and {found[1]} labels, moments {found[2]}; this one has "
            f"{network.n_features} and {network.n_labels}, and {'can' if network.trainable else 'cannot'} be trained"
        )
    source = open_arrays(path)
    _fill(network, source, about)
    network.restored(source)


def describe(path: str | os.PathLike) -> dict:
    """Return what ``network.json`` of a saved network says, without reading the arrays.

    Parameters
    ----------
    path : path-like

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


def open_arrays(path: Path):
    """Return what reads a saved network's JSON and arrays, checked: a folder's or a single file's."""
    if path.suffix == ONE_FILE and not path.is_dir():
        from slide import exchange

        return exchange.SafetensorsFile(path)
    from slide import shards

    return shards.ShardedFolder(path) if (path / shards.MANIFEST).is_file() else _Folder(path)


def read_json(path: Path) -> object:
    """Return what ``network.json`` in a folder says.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CheckpointError
        There is none, or it is damaged.
    """
    try:
        with open_regular(path / MANIFEST) as file:
            return json.loads(file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a saved network: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST}: {error}") from None


class _Folder:
    """The files of a saved network."""

    def __init__(self, path):
        self._path = path
        self.manifest = path / MANIFEST

    def about(self):
        return read_json(self._path)

    def name(self, name):
        """Where an array is, for messages."""
        return self._path / f"{name}.npy"

    def size(self, name):
        """Bytes that could be an array's, 0 if it is not there."""
        file = self.name(name)
        return file.stat().st_size if file.is_file() else 0

    def read(self, name, shape, dtype):
        """The array of that name, as it lies in its file."""
        file = self.name(name)
        try:
            with open_regular(file) as stream:
                found, fortran_order, kind = read_header(stream)
                check_kind(file, found, kind, shape, dtype)
                order = "F" if fortran_order else "C"
                return np.asarray(np.memmap(stream, dtype, "r", stream.tell(), shape, order))
        except CheckpointError:
            raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: {error}; the network was not saved completely or is damaged") from None


class _Records:
    """Weights and biases out of the rows that a network for serving was saved as."""

    def __init__(self, source, network, records):
        self._source, self._records, self._in_rows = source, records, _in_rows(network)
        self._tables = {name: layer.table for name, layer in layers_of(network).items()}
        self.name = source.name

    def read(self, name, shape, dtype):
        if name not in self._in_rows:
            return self._source.read(name, shape, dtype)
        prefix, _, part = name.rpartition(".")
        field = self._records(prefix, self._tables[prefix].n_rows, self._tables[prefix].dim)[part]
        return BFloat16View(field) if field.dtype == np.uint16 else field


def _fill(network, source, about):
    """Set everything in a network that there is in a saved one, of the output layer what it has."""
    moments = about.get("moments") is True
    mapped = _in_rows(network) if network.mapped else ()
    try:
        step = read_count(about, "step", INT32_MAX)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}: {error}") from None
    for name, target in parameters(network, moments=moments).items():
        if name in mapped:
            continue
        read_into(target, source, name, network)
        part = name.rpartition(".")[2]
        check_finite(source.name(name), target, negative=part not in NEVER_NEGATIVE)
        if part == "last_step" and target.max() > step:
            raise CheckpointError(f"{source.name(name)}: has a step after the last, {step}")
    if not moments:
        return
    try:
        training = about["training"] if about["version"] > 1 else {"settled_at": step, "tables": {}}
        optimizer, settled_at = network.optimizer, read_count(training, "settled_at", step)
        history = {
            name: source.read(f"optimizer.{name}", shape, dtype)
            for name, (shape, dtype) in optimizer.history_layout(step - settled_at).items()
        }
        for name in {"log_keep", "steps", "nodes"} & set(history):
            check_finite(source.name(f"optimizer.{name}"), history[name])
        optimizer.restore(step, settled_at, history)
        for name, layer in layers_of(network).items():
            name = network.table_name(name)
            position = training["tables"].get(name)
            if layer.index is not None and position is None:
                # There were none, or they were over other rows.
                layer.index.reset()
            elif layer.index is not None:
                codes = layer.index.codes if read_count(position, "rebuilds") else None
                if codes is not None:
                    codes = source.read(f"{name}.codes", codes.shape, codes.dtype)
                layer.index.restore(position, codes, network.threads)
    except CheckpointError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.manifest}, 'training': {error!r}") from None


def read_into(target: np.ndarray | BFloat16View, source, name: str, network: Network) -> None:
    """Read a saved array into one that there is, of the output layer's the rows that a network has.

    Parameters
    ----------
    target : array or BFloat16View
    source : object
        From ``open_arrays``.
    name : str
    network : Network

    Raises
    ------
    CheckpointError
        The array is damaged, incomplete or not what is expected.
    """
    from slide.shards import take_rows

    shape, rows = target.shape, range(len(target))
    here = network.rows_here(name.removeprefix("best."))
    if here is not None:
        shape, rows = (here[0], *shape[1:]), here[1]
    for places, values in take_rows(source, name, shape, target.dtype, rows):
        target[places] = values


def manifest(network: Network, *, moments: bool, layout: str) -> dict:
    """Return what ``network.json`` says.

    Parameters
    ----------
    network : Network
    moments : bool
    layout : str
        ``"arrays"``, ``"rows"`` or ``"shards"``.
    """
    index, training = network.output.index, None
    if moments:
        training = {"settled_at": network.optimizer.settled_at, "tables": positions(network)}
    return {
        "format": FORMAT,
        "version": SHARDED_VERSION if layout == "shards" else VERSION,
        "slide": __version__,
        "n_features": network.n_features,
        "n_labels": network.n_labels,
        "step": network.step,
        "layout": layout,
        "moments": moments,
        "training": training,
        "config": to_dict(network.config),
        "index": None if index is None else index.statistics(),
    }


def positions(network: Network) -> dict[str, dict]:
    """Return where the hash tables of a network's layers stand, by the names that these are saved under.

    Parameters
    ----------
    network : Network
    """
    layers = layers_of(network).items()
    return {network.table_name(name): layer.index.position() for name, layer in layers if layer.index is not None}


def layers_of(network: Network) -> dict:
    """Return a network's layers by the names that their files have."""
    return {**{layer.name: layer for layer in network.hidden}, "output": network.output}


def parameters(network: Network, *, moments: bool) -> dict[str, np.ndarray | BFloat16View]:
    """Return views of what a network computes with, by file name.

    Parameters
    ----------
    network : Network
    moments : bool
        Add what the optimiser keeps of it.
    """
    arrays = {} if network.feature_weights is None else {"feature_weights": network.feature_weights}
    for prefix, layer in layers_of(network).items():
        for name, array in layer.state().items():
            if moments or name in ("weights", "bias"):
                arrays[f"{prefix}.{name}"] = array
    return arrays


def of_training(network: Network) -> dict[str, np.ndarray]:
    """Return what else training needs to go on: the history that rows owe by, and what the tables are built from.

    Parameters
    ----------
    network : Network
    """
    arrays = {f"optimizer.{name}": array for name, array in network.optimizer.history().items()}
    for name, layer in layers_of(network).items():
        if layer.index is not None and layer.index.rebuilds:
            arrays[f"{network.table_name(name)}.codes"] = layer.index.codes
    return arrays


def _in_rows(network):
    """File names of the arrays that stand in the rows of a network saved for serving."""
    return {
        f"{name}.{part}"
        for name, layer in layers_of(network).items()
        for part in (("weights", "bias") if layer.rows_are_units else ("weights",))
    }


def write_array(file, array: np.ndarray | BFloat16View) -> None:
    """Write an array as ``np.save`` does, a block at a time.

    NumPy itself does not say why a file could not be written.

    Parameters
    ----------
    file : binary file
    array : array or BFloat16View
    """
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks(array.shape):
        file.write(np.ascontiguousarray(array[block]))


def _write_rows(file, table):
    """Write a table's rows as records, a block at a time."""
    dtype = RowTable.record_dtype(table.dim, _weights_precision(table.precision))
    shape, weights, bias = (table.n_rows,), table.weights, table.bias
    weights = weights.bits if isinstance(weights, BFloat16View) else weights
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks(weights.shape):
        records = np.zeros(block.stop - block.start, dtype)
        records["bias"], records["weights"] = bias[block], weights[block]
        file.write(records.tobytes())


def _weights_precision(precision):
    """Of rows that have no moments."""
    return "bf16" if precision == "bf16" else "fp32"
