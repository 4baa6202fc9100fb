from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

@disjoint_base
class _BlockHasher:
    @property
    def dim(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def l(self) -> int: ...  # noqa: E743
    @property
    def bucket_bits(self) -> int: ...
    def hash(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.uint32],
        num_threads: int,
        rows: NDArray[np.int32] | None = None,
    ) -> None: ...

@final
class HadamardSimHash(_BlockHasher):
    def __new__(cls, dim: int, k: int, l: int, signs: NDArray[np.float32], bucket_bits: int) -> Self: ...

@final
class SparseSimHash(_BlockHasher):
    def __new__(
        cls, dim: int, k: int, l: int, index: NDArray[np.int32], ptr: NDArray[np.int64], bucket_bits: int
    ) -> Self: ...

@final
class DWTA(_BlockHasher):
    def __new__(
        cls, dim: int, k: int, l: int, index: NDArray[np.int32], width: int, seed: int, bucket_bits: int
    ) -> Self: ...
