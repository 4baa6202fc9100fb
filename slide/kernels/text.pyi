from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class ParseStatus(IntEnum):
    OK = 0
    BAD_LABEL = 1
    LABEL_OUT_OF_RANGE = 2
    BAD_FEATURE = 3
    FEATURE_OUT_OF_RANGE = 4
    BAD_VALUE = 5
    VALUE_OVERFLOW = 6
    NO_MEMORY = 7

class ParsedLines(NamedTuple):
    labels: NDArray[np.int32]
    label_counts: NDArray[np.int64]
    features: NDArray[np.int32]
    values: NDArray[np.float32]
    feature_counts: NDArray[np.int64]
    row_lines: NDArray[np.int64]
    labels_increase: bool
    features_increase: bool
    n_lines: int
    n_bytes: int
    status: ParseStatus
    token_start: int
    token_stop: int

def parse_lines(
    text: Buffer,
    *,
    max_rows: int,
    first_feature: int,
    stop_feature: int,
    stop_label: int,
    comments: bool = False,
) -> ParsedLines: ...
