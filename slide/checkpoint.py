"""Saved networks: a folder of arrays (NumPy's .npy) and one JSON file, never a pickle.

``network.json`` has the format's version, the sizes, the configuration and what is good to know without loading; beside
it stand ``hidden.0.weights.npy``, ``output.weights.npy``, ``output.bias.npy`` and so on, one for each entry of the
layers' ``state()``. Numbers that the network stores as bfloat16 are saved as float32, which holds them exactly and is
read by everything. A folder is written under another name and renamed when it is complete, so that a reader never finds
half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tokenize
from pathlib import Path

import numpy as np

from slide.config import ConfigError, NetworkConfig
from slide.info import __version__
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.network import Network
from slide.settings import from_dict, to_dict

FORMAT = "slide-network"
VERSION = 1
MANIFEST = "network.json"
HISTORY, FORMER_HISTORY = "history.jsonl", "history.former.jsonl"
"""Histories of training (`slide.history`): of the last run, and of the network saved before where that run has yet to
save one."""


class CheckpointError(ValueError):
    """A saved network that is damaged, incomplete or of another version; the message names file and fault."""


def save(
    network: Network,
    path: str | os.PathLike,
    *,
    moments: bool = False,
    beside: dict[str, bytes] | None = None,
) -> None:
    """Write a network to a folder, replacing a saved network of that name.

    Parameters
    ----------
    network : Network
    path : path-like
    moments : bool
        Also write the optimiser's moments, or what it accumulates: with Adam three times the size, and training can go
        on from there.
    beside : dict of bytes, optional
        More files for the folder, by name, which ``load`` does not look at.

    Raises
    ------
    FileExistsError
        `path` exists and is no saved network, nor empty or with a history alone.
    OSError
        The folder cannot be written; what was at `path` before is as it was.
    """
    path = Path(path)
    check_destination(path)
    network.settle()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder.chmod(0o755)
        for name, array in _arrays(network, moments).items():
            _write(folder / f"{name}.npy", lambda file, array=array: _write_array(file, array))
        for name, content in (beside or {}).items():
            _write(folder / name, lambda file, content=content: file.write(content))
        text = json.dumps(_manifest(network, moments), indent=2)
        _write(folder / MANIFEST, lambda file: file.write(text.encode()))
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old)
            try:
                os.replace(folder, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
    if not path.is_dir() or any(file.name not in (HISTORY, FORMER_HISTORY) for file in path.iterdir()):
        raise FileExistsError(f"{path} exists and is not a saved network; choose another name or remove it")


def load(path: str | os.PathLike, *, threads: int | None = None) -> Network:
    """Read a saved network.

    Parameters
    ----------
    path : path-like
        A folder that ``save`` wrote. It may come from anywhere: nothing in it is executed, and every array is
        checked before it is used.
    threads : int, optional
        As for `Network`.

    Returns
    -------
    Network
        Ready to predict; ready to train on if it was saved with its moments.

    Raises
    ------
    CheckpointError
        The folder is not a saved network, or is damaged, incomplete or of another version.
    """
    path = Path(path)
    about = describe(path)
    try:
        config = from_dict(NetworkConfig, about["config"])
        n_features, n_labels, step = (_count(about, name) for name in ("n_features", "n_labels", "step"))
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path / MANIFEST}: {error}") from None
    trainable = about.get("moments") is True
    _check_sizes(path, n_features, n_labels, config)
    try:
        network = Network(n_features, n_labels, config, threads=threads, trainable=trainable)
    except ConfigError as error:
        raise CheckpointError(f"{path / MANIFEST}: {error}") from None
    for name, target in _arrays(network, trainable).items():
        file = path / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(file, mode="r")
        except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
            raise CheckpointError(f"{file}: {error}; the network was not saved completely or is damaged") from None
        if array.shape != target.shape or array.dtype != target.dtype:
            raise CheckpointError(
                f"{file}: expected {target.dtype} {list(target.shape)}, found {array.dtype} {list(array.shape)}"
            )
        target[...] = array
        # The sum is finite if all are, and needs no array of its own.
        with np.errstate(invalid="ignore", over="ignore"):
            sums = [target[block].sum(dtype=np.float64) for block in blocks(target.shape)]
        if not np.isfinite(sums).all():
            raise CheckpointError(f"{file}: has values that are not finite")
    network.optimizer.resume(step if trainable else 0)
    return network


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
    manifest = Path(path) / MANIFEST
    try:
        about = json.loads(manifest.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a saved network: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{manifest}: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{manifest}: not a {FORMAT} file")
    if about.get("version") != VERSION:
        raise CheckpointError(
            f"{manifest}: format version {about.get('version')!r}, this slide {__version__} reads version {VERSION}"
        )
    return about


def _manifest(network, moments):
    index = network.output.index
    return {
        "format": FORMAT,
        "version": VERSION,
        "slide": __version__,
        "n_features": network.n_features,
        "n_labels": network.n_labels,
        "step": network.step,
        "moments": moments,
        "config": to_dict(network.config),
        "index": None if index is None else index.statistics(),
    }


def _arrays(network, moments):
    """Views of everything that is saved, by file name."""
    arrays = {} if network.feature_weights is None else {"feature_weights": network.feature_weights}
    layers = [(layer.name, layer) for layer in network.hidden] + [("output", network.output)]
    for prefix, layer in layers:
        for name, array in layer.state().items():
            if moments or name in ("weights", "bias"):
                arrays[f"{prefix}.{name}"] = array
    return arrays


def _write_array(file, array):
    """Write an array as ``np.save`` does; what must be converted first is, a block at a time."""
    if not isinstance(array, BFloat16View):
        np.lib.format.write_array(file, array)
        return
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks(array.shape):
        file.write(array[block].tobytes())


def _write(file, write):
    with open(file, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def _count(about, name):
    value = about[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ConfigError(f"{name} must be a number from 0 to 2**31 - 1, got {value!r}")
    return value


def _check_sizes(path, n_features, n_labels, config):
    """Refuse a manifest that promises more than the files hold, before memory is allocated for it."""
    sizes, dim = [], n_features
    for i, layer in enumerate(config.hidden):
        # A full first layer's rows are the features, every other's are units: as many weights either way.
        sizes.append((f"hidden.{i}", dim, layer.units))
        dim = layer.units
    for prefix, rows, columns in (*sizes, ("output", n_labels, dim)):
        file = path / f"{prefix}.weights.npy"
        needed = rows * columns * 4
        found = file.stat().st_size if file.is_file() else 0
        if found < needed or rows < 1:
            raise CheckpointError(
                f"{file}: {needed:,} bytes expected for {rows:,} x {columns:,} weights, found {found:,}"
            )
