import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

@disjoint_base
class _Coded:
    @property
    def k(self) -> int: ...
    @property
    def l(self) -> int: ...  # noqa: E743
    @property
    def radix(self) -> int: ...
    @property
    def bucket_bits(self) -> int: ...

class CodeCombiner(_Coded):
    def __new__(cls, k: int, l: int, radix: int, bucket_bits: int) -> Self: ...
    def combine(self, codes: NDArray[np.int32], out: NDArray[np.uint32]) -> None: ...

@disjoint_base
class _BlockHasher(_Coded):
    @property
    def dim(self) -> int: ...
    @property
    def bin_size(self) -> int: ...
    @property
    def top(self) -> int: ...
    def hash(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.uint32],
        threads: int,
        rows: NDArray[np.int32] | None = None,
    ) -> None: ...
    def hash_sparse(
        self,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32],
        values: NDArray[np.float32],
        out: NDArray[np.uint32],
        threads: int,
    ) -> None: ...

class HadamardSimHash(_BlockHasher):
    def __new__(cls, dim: int, k: int, l: int, signs: NDArray[np.float32], bucket_bits: int) -> Self: ...

class SparseSimHash(_BlockHasher):
    def __new__(
        cls, dim: int, k: int, l: int, index: NDArray[np.int32], ptr: NDArray[np.int64], bucket_bits: int
    ) -> Self: ...

class WTA(_BlockHasher):
    def __new__(
        cls, dim: int, k: int, l: int, index: NDArray[np.int32], width: int, bucket_bits: int
    ) -> Self: ...

class DWTA(_BlockHasher):
    def __new__(
        cls, dim: int, k: int, l: int, index: NDArray[np.int32], width: int, seed: int, bucket_bits: int
    ) -> Self: ...

class MinHash(_BlockHasher):
    def __new__(
        cls,
        dim: int,
        k: int,
        l: int,
        index: NDArray[np.int32],
        top: int,
        width: int,
        seed: int,
        bucket_bits: int,
    ) -> Self: ...
