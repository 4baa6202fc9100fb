import numpy as np
from numpy.typing import NDArray

TERMS: int

def softmax_terms(
    shared: NDArray[np.float32],
    n_shared: int,
    own: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    label_ptr: NDArray[np.int64],
    label_place: NDArray[np.int32],
    target: NDArray[np.float32],
    terms: NDArray[np.float64],
    num_threads: int,
    *,
    smoothing: float = 0.0,
    weight: NDArray[np.float32] | None = None,
    certain: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> None: ...
def softmax_gradients(
    shared: NDArray[np.float32],
    n_shared: int,
    own: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    label_ptr: NDArray[np.int64],
    label_place: NDArray[np.int32],
    target: NDArray[np.float32],
    factor: NDArray[np.float32],
    share: NDArray[np.float32],
    scale: float,
    num_threads: int,
    *,
    smoothing: float = 0.0,
    weight: NDArray[np.float32] | None = None,
    certain: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> None: ...
def largest_logits(
    shared: NDArray[np.float32],
    n_shared: int,
    own: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    label_ptr: NDArray[np.int64],
    label_place: NDArray[np.int32],
    target: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None: ...
