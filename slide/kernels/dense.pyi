import numpy as np
from numpy.typing import NDArray

from slide.kernels.catch_up import Owed
from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

def shared_logits(
    table: RowTable,
    ids: NDArray[np.int32],
    offsets: NDArray[np.float32],
    hidden: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
    owed: Owed | None = None,
) -> None: ...
def shared_step(
    table: RowTable,
    ids: NDArray[np.int32],
    deltas: NDArray[np.float32],
    hidden: NDArray[np.float32],
    gradient: SampleGradient,
    rule: StepRule,
    threads: int,
) -> None: ...
def shared_gradients(
    table: RowTable,
    ids: NDArray[np.int32],
    deltas: NDArray[np.float32],
    hidden: NDArray[np.float32],
    to_hidden: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    bias_out: NDArray[np.float32] | None,
    threads: int,
) -> None: ...
