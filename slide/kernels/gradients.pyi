import numpy as np
from numpy.typing import NDArray

from slide.kernels.grouping import PairGroups
from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable

def row_gradients(
    groups: PairGroups,
    coefficients: NDArray[np.float32],
    hidden: NDArray[np.float32],
    out: NDArray[np.float32],
    bias_out: NDArray[np.float32],
    threads: int,
) -> None: ...
def step_rows(
    table: RowTable,
    rows: NDArray[np.int32],
    gradients: NDArray[np.float32],
    bias_gradients: NDArray[np.float32],
    rule: StepRule,
    threads: int,
) -> None: ...
