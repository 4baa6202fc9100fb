import numpy as np
from numpy.typing import NDArray

from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

def touched_rows(
    ids: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    stamps: NDArray[np.int32],
    stamp: int,
    out: NDArray[np.int32],
    threads: int,
) -> int: ...
def sddmm(
    table: RowTable,
    ids: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    hidden: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def step_rows(
    table: RowTable,
    sums: RowTable,
    rows: NDArray[np.int32],
    ids: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    coefficients: NDArray[np.float32],
    hidden: NDArray[np.float32],
    gradient: SampleGradient | None,
    rule: StepRule,
    threads: int,
) -> None: ...
