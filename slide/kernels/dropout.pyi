import numpy as np
from numpy.typing import NDArray

def drop_units(values: NDArray[np.float32], p: float, seed: int, iteration: int, threads: int) -> None: ...
def drop_pairs(
    values: NDArray[np.float32],
    ids: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    p: float,
    seed: int,
    iteration: int,
    threads: int,
) -> None: ...
def drop_entries(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    p: float,
    seed: int,
    iteration: int,
    out_indptr: NDArray[np.int64],
    out_indices: NDArray[np.int32],
    out_values: NDArray[np.float32],
) -> int: ...
