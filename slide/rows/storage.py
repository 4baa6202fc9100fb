"""How a parameter table keeps its rows: moments, precision, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slide.config import NetworkConfig
from slide.kernels import dtypes
from slide.kernels.memory import HugeBuffer
from slide.kernels.rows import RowTable
from slide.rows.optimizer import Optimizer
from slide.system.buffers import Buffers


class Storage(NamedTuple):
    """How the rows of a network's parameter tables are stored.

    Attributes
    ----------
    moments : int
        Number of moments that the optimizer keeps of each weight.
    accumulates : bool
        Whether the optimizer accumulates the squares of each row's gradients.
    precision : str
        Precision of weights and moments; see `slide.config.NetworkConfig`.
    """

    moments: int = 0
    accumulates: bool = False
    precision: str = "fp32"

    @classmethod
    def of(cls, config: NetworkConfig, *, trainable: bool = True) -> Storage:
        """Return how a network stores its rows; without what the optimizer keeps if it is not trainable."""
        if not trainable:
            return cls(precision=config.precision)
        optimizer = Optimizer(config.optimizer)
        return cls(optimizer.moments, optimizer.accumulates, config.precision)

    def make_table(
        self,
        rows: int,
        dim: int,
        name: str,
        buffers: Buffers,
        *,
        limit: float,
        seed: int,
        threads: int,
        biased: bool = True,
    ) -> RowTable:
        """Return the table of the layer `name`, listed in `buffers`.

        Weights are drawn from [-limit, limit); everything else is zero. Rows have biases only if `biased`.
        """
        name = f"{name} weights"
        table = RowTable(rows, dim, name=name, hugepages=buffers.hugepages, biased=biased, **self._asdict())
        memory = table.buffer
        assert isinstance(memory, HugeBuffer)
        # Parts of a row may be narrower than float32; its length is given in float32 all the same.
        buffers.add(name, memory, shape=(rows, memory.nbytes // (4 * rows)), dtype=dtypes.VALUE)
        table.fill_uniform(limit, seed, threads)
        return table

    def bytes_needed(self, rows: int, dim: int) -> int:
        """Return the bytes of a table of this size."""
        return RowTable.bytes_needed(rows, dim, self.moments, self.precision)


class MappedStorage:
    """Rows that lie in a file and are read from there when they are needed, for prediction only.

    Parameters
    ----------
    precision : str
        Precision of the weights in the file.
    records : callable
        Returns the rows of a layer, an array of ``RowTable.record_dtype``, for its name, the number of rows and their
        dimension.
    """

    def __init__(self, precision: str, records: Callable[[str, int, int], np.ndarray]):
        self._precision = precision
        self._records = records

    def make_table(
        self, rows: int, dim: int, name: str, buffers: Buffers, *, biased: bool = True, **draws: float
    ) -> RowTable:
        """See `Storage.make_table`; weights are not drawn, so `draws` goes unused."""
        what, records = f"{name} weights", self._records(name, rows, dim)
        table = RowTable(rows, dim, moments=0, name=what, biased=biased, precision=self._precision, records=records)
        memory = table.buffer
        assert isinstance(memory, np.ndarray)
        buffers.note(what, memory)
        return table
