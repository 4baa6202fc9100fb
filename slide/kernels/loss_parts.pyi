import numpy as np
from numpy.typing import NDArray

from slide.kernels.losses import ActiveSets

TERMS: int

def softmax_terms(sets: ActiveSets, terms: NDArray[np.float64], threads: int) -> None: ...
def softmax_gradients(
    sets: ActiveSets,
    factor: NDArray[np.float32],
    share: NDArray[np.float32],
    scale: float,
    threads: int,
) -> None: ...
def largest_logits(sets: ActiveSets, out: NDArray[np.float64]) -> None: ...
