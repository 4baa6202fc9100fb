import numpy as np
from numpy.typing import NDArray

def vanilla(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    n: int,
    forced_ptr: NDArray[np.int64],
    forced_ids: NDArray[np.int32],
    budget: int,
    seed: int,
    iteration: int,
    out_ids: NDArray[np.int32],
    out_counts: NDArray[np.int64],
    threads: int,
    *,
    fill: bool = False,
) -> None: ...
def ranked(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    n: int,
    forced_ptr: NDArray[np.int64],
    forced_ids: NDArray[np.int32],
    budget: int,
    seed: int,
    iteration: int,
    out_ids: NDArray[np.int32],
    out_counts: NDArray[np.int64],
    threads: int,
    *,
    min_tables: int = 1,
    fill: bool = False,
) -> None: ...
def split_shared(
    place: NDArray[np.int32],
    ids: NDArray[np.int32],
    counts: NDArray[np.int64],
    out_places: NDArray[np.int32],
    out_counts: NDArray[np.int64],
    threads: int,
) -> None: ...
