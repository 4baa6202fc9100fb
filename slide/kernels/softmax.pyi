import numpy as np
from numpy.typing import NDArray

def remove_offsets(
    shared: NDArray[np.float32],
    offsets: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    places: NDArray[np.int32],
    num_threads: int,
) -> None: ...
def softmax_cross_entropy(
    shared: NDArray[np.float32],
    n_shared: int,
    own: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    label_ptr: NDArray[np.int64],
    label_place: NDArray[np.int32],
    scale: float,
    loss: NDArray[np.float32],
    hit: NDArray[np.float32],
    num_threads: int,
) -> None: ...
