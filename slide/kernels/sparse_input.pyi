import numpy as np
from numpy.typing import NDArray

from slide.kernels.grouping import PairGroups
from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

def sddmm(
    table: RowTable,
    groups: PairGroups,
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    columns: NDArray[np.int32],
    values: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def step_groups(
    table: RowTable,
    groups: PairGroups,
    coefficients: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    columns: NDArray[np.int32],
    values: NDArray[np.float32],
    gradient: SampleGradient | None,
    touched_only: bool,
    rule: StepRule,
    threads: int,
) -> None: ...
