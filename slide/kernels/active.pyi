import numpy as np
from numpy.typing import NDArray

def draw_uniform(out: NDArray[np.int32], n_rows: int, seed: int, iteration: int) -> None: ...
def sorted_unique(ids: NDArray[np.int32], scratch: NDArray[np.int32], n_rows: int) -> int: ...
def label_places(
    shared: NDArray[np.int32],
    label_ptr: NDArray[np.int64],
    labels: NDArray[np.int32],
    out: NDArray[np.int32],
) -> None: ...
