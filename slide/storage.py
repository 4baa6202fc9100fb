"""What parameter tables keep of each weight beside its value, and how precisely they keep it."""

from __future__ import annotations

from typing import NamedTuple

from slide.buffers import Buffers
from slide.config import NetworkConfig
from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.optimizer import Optimizer


class Storage(NamedTuple):
    """How the rows of a network's parameter tables are stored.

    Attributes
    ----------
    moments : int
        Moments the optimiser keeps of each weight.
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
            False leaves out what the optimiser keeps.
        """
        if not trainable:
            return cls(precision=config.precision)
        optimizer = Optimizer(config.optimizer)
        return cls(optimizer.moments, optimizer.accumulates, config.precision)

    def make_table(self, rows: int, dim: int, name: str, buffers: Buffers, *, biased: bool = True) -> RowTable:
        """Return a table of zeros, accounted for in `buffers`.

        Parameters
        ----------
        rows, dim : int
        name : str
            For memory reports.
        buffers : Buffers
        biased : bool
            Whether rows have biases.
        """
        table = RowTable(rows, dim, name=name, hugepages=buffers.hugepages, biased=biased, **self._asdict())
        # A row is a header in float32 and parts that may be narrower; counted in float32 all the same.
        buffers.add(name, table.buffer, shape=(rows, table.buffer.nbytes // (4 * rows)), dtype=dtypes.VALUE)
        return table

    def bytes_needed(self, rows: int, dim: int) -> int:
        """Return the bytes of such a table.

        Parameters
        ----------
        rows, dim : int
        """
        return RowTable.bytes_needed(rows, dim, self.moments, self.precision)
