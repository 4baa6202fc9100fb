import numpy as np
from numpy.typing import NDArray

from slide.kernels.rows import RowTable
from slide.kernels.sketch import Sketch

def exact_topk(
    table: RowTable,
    hidden: NDArray[np.float32],
    exclude_ptr: NDArray[np.int64],
    exclude_ids: NDArray[np.int32],
    out_ids: NDArray[np.int32],
    out_scores: NDArray[np.float32],
    threads: int,
    log_partition: NDArray[np.float32] | None = None,
) -> None: ...
def sketch_topk(
    sketch: Sketch,
    queries: NDArray[np.float32],
    exclude_ptr: NDArray[np.int64],
    exclude_ids: NDArray[np.int32],
    out_ids: NDArray[np.int32],
    out_scores: NDArray[np.float32],
    threads: int,
) -> None: ...
def candidates_topk(
    table: RowTable,
    hidden: NDArray[np.float32],
    candidates: NDArray[np.int32],
    counts: NDArray[np.int64],
    exclude_ptr: NDArray[np.int64],
    exclude_ids: NDArray[np.int32],
    out_ids: NDArray[np.int32],
    out_scores: NDArray[np.float32],
    threads: int,
) -> None: ...
