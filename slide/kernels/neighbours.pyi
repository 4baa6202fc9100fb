from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

@final
class Postings:
    def __new__(
        cls,
        feature_ptr: NDArray[np.int64],
        points: NDArray[np.int32],
        values: NDArray[np.float32],
        n_points: int,
    ) -> Self: ...
    @property
    def n_points(self) -> int: ...
    @property
    def n_features(self) -> int: ...

def nearest(
    postings: Postings,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    out_ids: NDArray[np.int32],
    out_scores: NDArray[np.float32],
    threads: int,
) -> None: ...
def best_of_rows(
    indptr: NDArray[np.int64],
    ids: NDArray[np.int32],
    scores: NDArray[np.float64],
    more_ids: NDArray[np.int32],
    more_scores: NDArray[np.float64],
    out_ids: NDArray[np.int32],
    out_scores: NDArray[np.float64],
) -> None: ...
