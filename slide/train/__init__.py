"""The training loop and what follows it: batches, callbacks, early stopping, checkpoints, streams.

=================  ============================================================
`records`          how far a run is (``Progress``), and what it has done (``Epoch``, ``History``)
`callbacks`        ``Callback``: is called as a run goes on, and may end it
`interrupts`       Ctrl-C and SIGTERM, as a callback
`learning_rate`    the learning rate over a run
`early_stopping`   which epoch was best, and when to stop waiting for a better one
`tolerance`        what a run does about numerical faults
`feed`             the samples of a run, their batches in order, and what quality is measured on
`run_state`        the state of a run between two batches, as plain values
`checkpoints`      checkpoints, from which a run goes on to the same bits
`loop`             fit: training on a data set
`stream`           fit_stream: training on an iterator of blocks
=================  ============================================================
"""

from slide.model.faults import NumericalFault
from slide.train.callbacks import Callback, Run
from slide.train.checkpoints import Checkpoints
from slide.train.interrupts import StopSignals
from slide.train.records import Epoch, History, Progress

__all__ = ["Callback", "Checkpoints", "Epoch", "History", "NumericalFault", "Progress", "Run", "StopSignals"]
