from typing import final

import numpy as np
from numpy.typing import NDArray

from slide.kernels.catch_up import Owed
from slide.kernels.grouping import PairGroups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient

@final
class StepRule:
    @property
    def owed(self) -> Owed | None: ...
    @property
    def squared_norm(self) -> float: ...
    @property
    def moments(self) -> int: ...
    @property
    def accumulates(self) -> bool: ...
    @property
    def whole_rows(self) -> bool: ...

def sgd(lr: float, step: int, *, weight_decay: float = 0.0, owed: Owed | None = None) -> StepRule: ...
def adam(
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    *,
    weight_decay: float = 0.0,
    decay_moments: bool = False,
    owed: Owed | None = None,
) -> StepRule: ...
def adagrad(
    lr: float, eps: float, step: int, *, weight_decay: float = 0.0, owed: Owed | None = None
) -> StepRule: ...
def measure() -> StepRule: ...
def check_moments(table: RowTable, rule: StepRule) -> None: ...
def step_groups(
    table: RowTable,
    groups: PairGroups,
    coefficients: NDArray[np.float32],
    hidden: NDArray[np.float32],
    gradient: SampleGradient | None,
    rule: StepRule,
    threads: int,
) -> None: ...
def step_vector(
    w: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    grad: NDArray[np.float32],
    rule: StepRule,
) -> None: ...
