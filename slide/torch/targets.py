"""Labels in the forms that PyTorch programs have them, as CSR."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, issparse

from slide.data.batches import Batch
from slide.kernels import dtypes

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
NO_VALUES = np.zeros(0, dtypes.VALUE)


class Targets(NamedTuple):
    """The labels of samples, as CSR: those of sample s are ``labels[ptr[s]:ptr[s + 1]]``, ascending and each once.

    Attributes
    ----------
    ptr : int64 array [samples + 1]
    labels : int32 array
    """

    ptr: np.ndarray
    labels: np.ndarray

    def batch(self) -> Batch:
        """Return them as a batch without features."""
        return Batch(np.zeros_like(self.ptr), self.labels[:0], NO_VALUES, self.ptr, self.labels)

    def of(self, samples: np.ndarray) -> Targets:
        """Return the labels of all samples that have labels: `samples`, ascending."""
        return Targets(np.append(self.ptr[samples], self.ptr[-1]), self.labels)


def read_targets(targets: Any, leading: tuple[int, ...], n_labels: int, ignore_index: int) -> Targets:
    """Return the labels of a batch of samples.

    Parameters
    ----------
    targets : tensor, sparse matrix or sequence
        See `slide.torch.SampledLinear.loss`.
    leading : tuple of int
        Shape of the hidden vectors without their last dimension.
    ignore_index : int
        The target that stands for no label.

    Raises
    ------
    IndexError
        A label is out of range.
    ValueError
        The shape does not fit, or the targets are not whole numbers.
    """
    samples = int(np.prod(leading, dtype=np.int64))
    if issparse(targets):
        return _of_matrix(targets, samples, n_labels)
    if isinstance(targets, torch.Tensor) and targets.layout in (torch.sparse_csr, torch.sparse_coo):
        return _of_matrix(_to_scipy(targets), samples, n_labels)
    if isinstance(targets, (list, tuple)) and len(targets) == samples and not (samples and _all_scalars(targets)):
        lists = [np.asarray(labels).reshape(-1) for labels in targets]
        lengths = [len(labels) for labels in lists]
        # An empty list would become an array of floats.
        labels = np.concatenate([some for some in lists if len(some)] or [np.zeros(0, np.int64)])
        return _checked(labels, np.repeat(np.arange(samples), lengths), samples, n_labels, ignore_index)
    tensor = torch.as_tensor(targets)
    if tensor.dtype not in INTEGERS:
        raise ValueError(f"targets must be label ids, whole numbers such as int64, not {tensor.dtype}")
    if tensor.shape[: len(leading)] != leading or tensor.ndim > len(leading) + 1:
        raise ValueError(
            f"targets must be {list(leading)}, one label for each hidden vector, or {[*leading, 'm']}, up to m labels "
            f"padded with {ignore_index}; got {list(tensor.shape)}"
        )
    array = tensor.numpy(force=True)
    if array.ndim == len(leading):
        return _single(array.reshape(-1), n_labels, ignore_index)
    width = array.shape[-1]
    return _checked(array.reshape(-1), np.repeat(np.arange(samples), width), samples, n_labels, ignore_index)


def _to_scipy(tensor: torch.Tensor) -> csr_matrix:
    if tensor.ndim != 2:
        raise ValueError(f"a sparse tensor of targets must have two dimensions, got {list(tensor.shape)}")
    shape = tensor.shape[0], tensor.shape[1]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        places = tuple(tensor.indices().numpy(force=True))
        return csr_matrix((tensor.values().numpy(force=True), places), shape=shape)
    columns, ptr = (part.numpy(force=True) for part in (tensor.col_indices(), tensor.crow_indices()))
    return csr_matrix((tensor.values().numpy(force=True), columns, ptr), shape=shape)


def _all_scalars(targets: Iterable[Any]) -> bool:
    return all(np.ndim(label) == 0 for label in targets)


def _single(labels: np.ndarray, n_labels: int, ignore_index: int) -> Targets:
    """Return targets of samples with one label each: the most frequent case, without sorting."""
    kept = labels != ignore_index
    ptr = np.zeros(len(labels) + 1, dtypes.OFFSET)
    np.cumsum(kept, out=ptr[1:])
    if ptr[-1] < len(labels):
        _check_range(labels, kept, n_labels, ignore_index)
        labels = labels[kept]
    else:
        _check_range(labels, None, n_labels, ignore_index)
    return Targets(ptr, labels.astype(dtypes.INDEX))


def _check_range(labels: np.ndarray, kept: np.ndarray | None, n_labels: int, ignore_index: int) -> None:
    wrong = (labels < 0) | (labels >= n_labels)
    if kept is not None:
        wrong &= kept
    if wrong.any():
        at = int(np.argmax(wrong))
        raise IndexError(
            f"target {labels[at]} (number {at}) is out of range: the layer has the labels 0 to {n_labels - 1:,}, and "
            f"{ignore_index} stands for none"
        )


def _checked(
    labels: np.ndarray, samples_of: np.ndarray, samples: int, n_labels: int, ignore_index: int
) -> Targets:
    """Return targets from labels in any order, perhaps repeated, of samples in ascending order."""
    if labels.dtype.kind not in "iu":
        raise ValueError(f"targets must be label ids, whole numbers such as int64, not {labels.dtype}")
    kept = labels != ignore_index
    _check_range(labels, kept, n_labels, ignore_index)
    keys = np.unique(samples_of[kept].astype(np.int64) * n_labels + labels[kept].astype(np.int64))
    ptr = np.searchsorted(keys, np.arange(samples + 1, dtype=np.int64) * n_labels).astype(dtypes.OFFSET)
    return Targets(ptr, (keys % n_labels).astype(dtypes.INDEX))


def _of_matrix(matrix: Any, samples: int, n_labels: int) -> Targets:
    if matrix.shape != (samples, n_labels):
        raise ValueError(
            f"a sparse matrix of targets must have a row for each of the {samples} hidden vectors and "
            f"a column for each of the {n_labels:,} labels, got {list(matrix.shape)}"
        )
    rows = csr_matrix(matrix, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return Targets(rows.indptr.astype(dtypes.OFFSET), rows.indices.astype(dtypes.INDEX))
