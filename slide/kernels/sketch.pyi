from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

@final
class Sketch:
    def __new__(cls, vectors: NDArray[np.float32], bias: NDArray[np.float32]) -> Self: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
