"""What parameter tables keep of each weight beside its value, and how precisely they keep it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slide.config import NetworkConfig
from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.rows.optimizer import Optimizer
from slide.system.buffers import Buffers


class Storage(NamedTuple):
    """How the rows of a network's parameter tables are stored.

    Attributes
    ----------
    moments : int
        Moments the optimizer keeps of each weight.
    accumulates : bool
        Whether it accumulates the squares of each row's gradients.
    precision : str
        Of weights and moments; see `slide.config.NetworkConfig`.
    """

    moments: int = 0
    accumulates: bool = False
    precision: str = "fp32"

    @classmethod
    def of(cls, config: NetworkConfig, *, trainable: bool = True) -> Storage:
        """Return how a network stores its rows.

        Parameters
        ----------
        config : NetworkConfig
        trainable : bool
            False leaves out what the optimizer keeps.
        """
        if not trainable:
            return cls(precision=config.precision)
        optimizer = Optimizer(config.optimizer)
        return cls(optimizer.moments, optimizer.accumulates, config.precision)

    def make_table(
        self, rows: int, dim: int, name: str, buffers: Buffers, *, limit: float, seed: int, threads: int, biased=True
    ) -> RowTable:
        """Return a layer's table, accounted for in `buffers`: weights drawn from [-limit, limit), the rest zero.

        Parameters
        ----------
        rows, dim : int
        name : str
            Of the layer.
        buffers : Buffers
        limit : float
        seed : int
            Of the draws.
        threads : int
        biased : bool
            Whether rows have biases.
        """
        name = f"{name} weights"
        table = RowTable(rows, dim, name=name, hugepages=buffers.hugepages, biased=biased, **self._asdict())
        # A row is a header in float32 and parts that may be narrower; counted in float32 all the same.
        buffers.add(name, table.buffer, shape=(rows, table.buffer.nbytes // (4 * rows)), dtype=dtypes.VALUE)
        table.fill_uniform(limit, seed, threads)
        return table

    def bytes_needed(self, rows: int, dim: int) -> int:
        """Return the bytes of such a table.

        Parameters
        ----------
        rows, dim : int
        """
        return RowTable.bytes_needed(rows, dim, self.moments, self.precision)


class MappedStorage:
    """Rows that lie in a file and are read from there, when and as far as they are needed: for prediction alone.

    Parameters
    ----------
    precision : str
    records : callable
        Returns the rows of a layer, an array of ``RowTable.record_dtype``, from its name, their number and their
        dimension.
    """

    def __init__(self, precision: str, records: Callable[[str, int, int], np.ndarray]):
        self._precision = precision
        self._records = records

    def make_table(self, rows: int, dim: int, name: str, buffers: Buffers, *, biased: bool = True, **draws) -> RowTable:
        """Return a layer's table, accounted for in `buffers`; its weights are not drawn. See `Storage.make_table`."""
        what, records = f"{name} weights", self._records(name, rows, dim)
        table = RowTable(rows, dim, moments=0, name=what, biased=biased, precision=self._precision, records=records)
        buffers.note(what, table.buffer)
        return table
