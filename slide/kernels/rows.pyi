from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.memory import HugeBuffer

PRECISIONS: tuple[str, ...]

@final
class RowTable:
    def __new__(
        cls,
        n_rows: int,
        dim: int,
        *,
        moments: int = 2,
        name: str = "",
        hugepages: bool | str = True,
        biased: bool = True,
        accumulates: bool = False,
        precision: str = "fp32",
        records: NDArray[Any] | None = None,
    ) -> Self: ...
    @property
    def buffer(self) -> HugeBuffer | NDArray[np.uint8]: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def padded_dim(self) -> int: ...
    @property
    def moments(self) -> int: ...
    @property
    def accumulates(self) -> bool: ...
    @property
    def precision(self) -> str: ...
    @staticmethod
    def bytes_needed(n_rows: int, dim: int, moments: int = 2, precision: str = "fp32") -> int: ...
    @staticmethod
    def record_dtype(dim: int, precision: str = "fp32") -> np.dtype[np.void]: ...
    @property
    def weights(self) -> NDArray[np.float32] | BFloat16View: ...
    @property
    def bias(self) -> NDArray[np.float32]: ...
    @property
    def last_step(self) -> NDArray[np.int32]: ...
    def state(self) -> dict[str, NDArray[np.float32] | NDArray[np.int32] | BFloat16View]: ...
    def fill_uniform(
        self, limit: float, seed: int, num_threads: int, first: int = 0, distance: int = 1
    ) -> None: ...

def check_writable(table: RowTable) -> None: ...
