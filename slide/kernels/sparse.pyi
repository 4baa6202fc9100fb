from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from slide.kernels.catch_up import Owed
from slide.kernels.grouping import PairGroups
from slide.kernels.memory import HugeBuffer
from slide.kernels.rows import RowTable

@final
class SampleGradient:
    def __new__(cls, n_samples: int, padded_dim: int, *, hugepages: bool | str = True) -> Self: ...
    @property
    def n_samples(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def n_parts(self) -> int: ...
    @property
    def buffer_owner(self) -> HugeBuffer: ...
    def clear(self) -> None: ...
    def sum_into(
        self, out: NDArray[np.float32], active: NDArray[np.float32] | None, threads: int
    ) -> None: ...

def take_rows(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    rows: NDArray[np.int64],
    normalize: bool,
    out_indptr: NDArray[np.int64],
    out_indices: NDArray[np.int32],
    out_values: NDArray[np.float32],
) -> int: ...
def spmm(
    table: RowTable,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    bias: NDArray[np.float32],
    relu: bool,
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def sddmm(
    table: RowTable,
    groups: PairGroups,
    hidden: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
    owed: Owed | None = None,
) -> None: ...
