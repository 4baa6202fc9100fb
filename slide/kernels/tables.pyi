import numpy as np
from numpy.typing import NDArray

def room(n: int, n_buckets: int, capacity: int = 0) -> int: ...
def build(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    threads: int,
    *,
    capacity: int = 0,
    reservoir: bool = False,
    seed: int = 0,
    dropped: NDArray[np.int64] | None = None,
) -> None: ...
def update(
    rows: NDArray[np.int32],
    old: NDArray[np.uint32],
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    threads: int,
) -> None: ...
def probe(
    codes: NDArray[np.uint32], offsets: NDArray[np.int32], ids: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def batch_probe(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    queries: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]: ...
