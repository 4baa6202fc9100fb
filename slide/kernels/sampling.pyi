import numpy as np
from numpy.typing import NDArray

def vanilla(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int32],
    ids: NDArray[np.int32],
    forced_ptr: NDArray[np.int64],
    forced_ids: NDArray[np.int32],
    budget: int,
    seed: int,
    iteration: int,
    out_ids: NDArray[np.int32],
    out_counts: NDArray[np.int64],
    num_threads: int,
) -> None: ...
def split_shared(
    place: NDArray[np.int32],
    ids: NDArray[np.int32],
    counts: NDArray[np.int64],
    out_places: NDArray[np.int32],
    out_counts: NDArray[np.int64],
    num_threads: int,
) -> None: ...
