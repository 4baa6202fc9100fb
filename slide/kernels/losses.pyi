from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

@final
class ActiveSets:
    def __new__(
        cls,
        shared: NDArray[np.float32],
        n_shared: int,
        own: NDArray[np.float32],
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
        label_ptr: NDArray[np.int64],
        label_place: NDArray[np.int32],
        target: NDArray[np.float32],
        *,
        smoothing: float = 0.0,
        weight: NDArray[np.float32] | None = None,
        certain: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> Self: ...

def remove_offsets(
    shared: NDArray[np.float32],
    offsets: NDArray[np.float32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    places: NDArray[np.int32],
    threads: int,
) -> None: ...
def softmax_cross_entropy(
    sets: ActiveSets,
    scale: float,
    loss: NDArray[np.float32],
    hit: NDArray[np.float32],
    threads: int,
) -> None: ...
def logistic_cross_entropy(
    sets: ActiveSets,
    scale: float,
    loss: NDArray[np.float32],
    hit: NDArray[np.float32],
    threads: int,
    *,
    labelled: NDArray[np.uint8] | None = None,
) -> None: ...
