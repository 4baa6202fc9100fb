import numpy as np
from numpy.typing import NDArray

def build(
    codes: NDArray[np.uint32], offsets: NDArray[np.int32], ids: NDArray[np.int32], num_threads: int
) -> None: ...
