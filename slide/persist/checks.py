"""Checks of a saved network before it is used: its files may come from anywhere.

The sizes in a manifest are compared with those of the files before memory is allocated for them; arrays must have the
expected shape, type and range. Nothing here reads a file; see `slide.persist.saved_network`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from slide.config import HiddenConfig, NetworkConfig, OutputConfig
from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.lsh.families import make_hasher
from slide.lsh.index import NeuronIndex
from slide.model.faults import first_not_finite

FREE_BYTES, MAX_RATIO = 64 << 20, 32
"""Limits of the memory of a saved network's hash tables: so many bytes, or so many times the bytes of the weights if
that is more. Tables are in no file, so that a few letters in a manifest could ask for all memory."""


class CheckpointError(ValueError):
    """A saved network that is damaged, incomplete or of another version; the message names the file and the fault."""


def checked(where: object, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array, or raise CheckpointError, naming `where`, if it does not have the expected shape and dtype."""
    check_kind(where, array.shape, array.dtype, shape, dtype)
    return array


def check_kind(
    where: object, found: tuple[int, ...], kind: np.dtype, shape: tuple[int, ...], dtype: np.dtype
) -> None:
    """Raise CheckpointError, naming `where`, if an array of shape `found` and dtype `kind` is not as expected."""
    if found != shape or kind != dtype:
        raise CheckpointError(f"{where}: expected {dtype} {list(shape)}, found {kind} {list(found)}")


def check_finite(where: object, array: np.ndarray | BFloat16View, *, negative: bool = True) -> None:
    """Raise CheckpointError, naming `where`, if an array has values that are not finite or must not be negative.

    `negative` says whether values may be negative.
    """
    if first_not_finite(array) is not None:
        raise CheckpointError(f"{where}: has values that are not finite")
    if not negative and any((array[block] < 0).any() for block in blocks(array.shape)):
        raise CheckpointError(f"{where}: has negative values, but is made of squares or counts steps")


class Files(Protocol):
    """What the checks ask of a saved network's files; see `slide.persist.format.Source`."""

    @property
    def manifest(self) -> Path:
        """Return the file that describes the network."""

    def name(self, name: str) -> Path | str:
        """Return where an array is, for messages."""

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there."""


def check_sizes(source: Files, n_features: int, n_labels: int, config: NetworkConfig, *, rows: bool) -> None:
    """Refuse a manifest that promises more than the files hold, before memory is allocated for it.

    `rows` says whether the files have rows as the kernels read them.

    Raises
    ------
    CheckpointError
        A file is too small, or a layer has no rows.
    """
    sizes, dim = [], n_features
    for i, layer in enumerate(config.hidden):
        # The rows of a full first layer are features, all other rows are units: as many weights either way.
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


def check_tables(source: Files, n_features: int, n_labels: int, config: NetworkConfig) -> None:
    """Refuse a manifest that asks for hash tables, or hash functions, out of all proportion to the weights.

    Raises
    ------
    CheckpointError
        The tables of a layer would take more than `FREE_BYTES` and `MAX_RATIO` allow, or cannot be made.
    """
    dim = n_features
    layers: list[HiddenConfig | OutputConfig] = [*config.hidden, config.output]
    for i, layer in enumerate(layers):
        name = "output" if layer is config.output else f"hidden.{i}"
        rows = layer.units if isinstance(layer, HiddenConfig) else n_labels
        if layer.uses_tables:
            lsh, most = layer.lsh, max(FREE_BYTES, MAX_RATIO * source.size(f"{name}.weights"))
            # Sparse projections are drawn from one number per coordinate, before the number of buckets is known.
            needed = 16 * (lsh.k or 32) * lsh.l * dim if (lsh.family, lsh.projection) == ("simhash", "sparse") else 0
            try:
                if needed <= most:
                    bits = make_hasher(lsh, dim, rows, np.random.default_rng(0)).bucket_bits
                    needed = max(needed, NeuronIndex.bytes_needed(rows, lsh, bits))
            except ValueError as error:
                raise CheckpointError(f"{source.manifest}: {error}") from None
            if needed > most:
                raise CheckpointError(
                    f"{source.manifest}, config, lsh of {name}: tables of {needed:,} bytes for {rows:,} rows, expected "
                    f"at most {most:,}: the file is damaged, or was made to fill the memory"
                )
        dim = rows
