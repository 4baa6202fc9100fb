from typing import final

import numpy as np
from numpy.typing import NDArray

from slide.kernels.rows import RowTable
from slide.kernels.sparse import PairGroups, SampleGradient

@final
class StepRule:
    @property
    def moments(self) -> int: ...

def sgd(lr: float, step: int) -> StepRule: ...
def adam(lr: float, beta1: float, beta2: float, eps: float, step: int) -> StepRule: ...
def check_moments(table: RowTable, rule: StepRule) -> None: ...
def step_groups(
    table: RowTable,
    groups: PairGroups,
    coefficients: NDArray[np.float32],
    hidden: NDArray[np.float32],
    gradient: SampleGradient | None,
    rule: StepRule,
    num_threads: int,
) -> None: ...
def step_vector(
    w: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    grad: NDArray[np.float32],
    rule: StepRule,
) -> None: ...
