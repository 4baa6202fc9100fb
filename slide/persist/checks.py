"""What is held against a saved network before it is believed: its files may come from anywhere.

A manifest's sizes are compared with those of the files before memory is taken for them, arrays with the shape, the type
and the range that they must have. Nothing here reads a file; see `slide.persist.saved_network`.
"""

from __future__ import annotations

import numpy as np

from slide.config import NetworkConfig
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.lsh.families import make_hasher
from slide.lsh.index import NeuronIndex
from slide.model.faults import first_not_finite

FREE_BYTES, MAX_RATIO = 64 << 20, 32
"""Hash tables of a saved network may take so many bytes, or so many times those of its weights: they are in no file, so
that a few letters could ask for all memory."""


class CheckpointError(ValueError):
    """A saved network that is damaged, incomplete or of another version; the message names file and fault."""


def checked(where, array: np.ndarray, shape: tuple, dtype: np.dtype) -> np.ndarray:
    """Return an array that was read, or raise CheckpointError if it is not what was expected.

    Parameters
    ----------
    where : object
        Names it in messages.
    array : array
    shape : tuple
    dtype : dtype
    """
    check_kind(where, array.shape, array.dtype, shape, dtype)
    return array


def check_kind(where, found: tuple, kind: np.dtype, shape: tuple, dtype: np.dtype) -> None:
    """Raise CheckpointError if an array has not the shape and the dtype that were expected.

    Parameters
    ----------
    where : object
        Names it in messages.
    found : tuple
    kind : dtype
        What it has.
    shape : tuple
    dtype : dtype
    """
    if found != shape or kind != dtype:
        raise CheckpointError(f"{where}: expected {dtype} {list(shape)}, found {kind} {list(found)}")


def check_finite(where, array: np.ndarray | BFloat16View, *, negative: bool = True) -> None:
    """Raise CheckpointError if an array has values that are not finite, or negative where it must not.

    Parameters
    ----------
    where : object
        Names it in the message.
    array : array or BFloat16View
    negative : bool
        Whether values may be negative.
    """
    if first_not_finite(array) is not None:
        raise CheckpointError(f"{where}: has values that are not finite")
    if not negative and any((array[block] < 0).any() for block in blocks(array.shape)):
        raise CheckpointError(f"{where}: has negative values, and is made of squares or counts steps")


def check_sizes(source, n_features: int, n_labels: int, config: NetworkConfig, *, rows: bool) -> None:
    """Refuse a manifest that promises more than the files hold, before memory is allocated for it.

    Parameters
    ----------
    source : object
        From `slide.persist.saved_network.open_arrays`.
    n_features, n_labels : int
    config : NetworkConfig
    rows : bool
        Whether the files have rows as the kernels read them.

    Raises
    ------
    CheckpointError
    """
    sizes, dim = [], n_features
    for i, layer in enumerate(config.hidden):
        # A full first layer's rows are the features, every other's are units: as many weights either way.
        sizes.append((f"hidden.{i}", dim, layer.units))
        dim = layer.units
    width = 2 if rows and config.precision == "bf16" else 4
    for prefix, n, columns in (*sizes, ("output", n_labels, dim)):
        name = f"{prefix}.{'rows' if rows else 'weights'}"
        needed, found = n * columns * width, source.size(name)
        if found < needed or n < 1:
            raise CheckpointError(
                f"{source.name(name)}: {needed:,} bytes expected for {n:,} x {columns:,} weights, found {found:,}"
            )


def check_tables(source, n_features: int, n_labels: int, config: NetworkConfig) -> None:
    """Refuse a manifest that asks for hash tables, or functions, out of all proportion to the weights.

    Parameters
    ----------
    source, n_features, n_labels, config
        As for `check_sizes`.

    Raises
    ------
    CheckpointError
    """
    dim = n_features
    for i, layer in enumerate((*config.hidden, config.output)):
        name = "output" if layer is config.output else f"hidden.{i}"
        rows = n_labels if layer is config.output else layer.units
        if layer.uses_tables:
            lsh, most = layer.lsh, max(FREE_BYTES, MAX_RATIO * source.size(f"{name}.weights"))
            # Sparse projections are drawn from a number for each coordinate, and are made before it is known how many
            # buckets there are.
            needed = 16 * (lsh.k or 32) * lsh.l * dim if (lsh.family, lsh.projection) == ("simhash", "sparse") else 0
            try:
                if needed <= most:
                    bits = make_hasher(lsh, dim, rows, np.random.default_rng(0)).bucket_bits
                    needed = max(needed, NeuronIndex.bytes_needed(rows, lsh, bits))
            except ValueError as error:
                raise CheckpointError(f"{source.manifest}: {error}") from None
            if needed > most:
                raise CheckpointError(
                    f"{source.manifest}, config, lsh of {name}: tables of {needed:,} bytes for {rows:,} rows, "
                    f"{most:,} at most: the file is damaged, or was made to fill the memory"
                )
        dim = rows
