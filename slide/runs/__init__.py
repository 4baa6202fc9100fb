"""The history of a run: files, curves, comparisons, the progress bar, TensorBoard.

==============  ============================================================
`pace`          how often figures of a run are recorded
`history`       a run as JSON lines, written while it goes on, and read
`comparison`    several runs side by side, as a table
`plots`         the curves of runs
`display`       a run on the terminal: a progress bar or log lines
`tensorboard`   a run for TensorBoard
==============  ============================================================
"""

from slide.runs.comparison import compare
from slide.runs.display import TrainingDisplay
from slide.runs.history import HistoryError, HistoryFile, RecordedRun, read_history
from slide.runs.plots import draw
from slide.runs.tensorboard import TensorBoard

__all__ = [
    "HistoryError",
    "HistoryFile",
    "RecordedRun",
    "TensorBoard",
    "TrainingDisplay",
    "compare",
    "draw",
    "read_history",
]
