from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from slide.kernels.rows import RowTable

@final
class Owed:
    def __new__(
        cls,
        step: int,
        first: int,
        log_keep: NDArray[np.float64],
        decay: tuple[float, float] | None,
        motion: tuple[NDArray[np.float32], NDArray[np.float32], int, int, float] | None,
    ) -> Self: ...

def catch_up(table: RowTable, ids: NDArray[np.int32] | None, owed: Owed, threads: int) -> None: ...
def add_step(
    first_root: NDArray[np.float64],
    measures: NDArray[np.float64],
    fading: NDArray[np.float64],
    narrowing: NDArray[np.float64],
    rate: float,
    root: float,
    decay: float,
    root_beta2: float,
    nodes: NDArray[np.float32],
) -> None: ...
def check_owed(table: RowTable, owed: Owed) -> None: ...
