"""Callbacks: objects that are called as a training run goes on, and may end it.

A callback is an object of a class derived from `Callback`, with those of the four methods that it needs::

    class Patient(Callback):
        def on_epoch(self, progress):
            print(progress.epoch, progress.quality)
            return progress.seconds > 3600

    network.fit(X, Y, callbacks=[Patient()])

A plain function among the callbacks is called after every batch, like ``on_batch``. Callbacks are called in the given
order, in the thread that trains; their time does not count as training time. Examples are the progress bar and the log
lines of ``slide train`` (`slide.runs.display.TrainingDisplay`), the history that it writes
(`slide.runs.history.HistoryFile`) and the writer of TensorBoard's files (`slide.runs.tensorboard.TensorBoard`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from slide.config import TrainingConfig
from slide.model.base import BaseNetwork
from slide.train.records import History, Progress


@dataclass(frozen=True)
class Run:
    """A training run that is about to start; ``on_start`` gets it.

    Attributes
    ----------
    network : BaseNetwork
        A `slide.Network`, or a `slide.distributed.DistributedNetwork`.
    config : TrainingConfig
        Settings of the run.
    samples : int
        Number of samples to train on, without those that are held out; 0 if unknown, as for streams.
    measured_samples : int
        Number of samples on which quality is measured at the end of epochs; 0 if it is not measured.
    progress : Progress
        The object that ``on_batch`` and ``on_epoch`` will get. Its ``batch`` is 0 or, if the run is resumed, the number
        of batches before.
    """

    network: BaseNetwork
    config: TrainingConfig
    samples: int
    measured_samples: int
    progress: Progress

    @property
    def points(self) -> int:
        """The former name of `samples`."""
        return self.samples

    @property
    def measured_points(self) -> int:
        """The former name of `measured_samples`."""
        return self.measured_samples


class Callback:
    """Base class of callbacks: derive from it and override the methods that you need.

    An exception in any method ends the run with that exception.

    Examples
    --------
    >>> from slide.train import Callback
    >>> class StopAfterAnHour(Callback):
    ...     def on_epoch(self, progress):
    ...         return progress.seconds > 3600
    """

    def on_start(self, run: Run) -> None:
        """Called before the first batch.

        Parameters
        ----------
        run : Run
            The network, the settings and the numbers of samples.
        """

    def on_batch(self, progress: Progress) -> bool | None:
        """Called after every batch.

        Parameters
        ----------
        progress : Progress
            The same object every time: copy what you want to keep.

        Returns
        -------
        bool or None
            True to end the run now.
        """

    def on_epoch(self, progress: Progress) -> bool | None:
        """Called at the end of every epoch, after its quality has been measured, if it is.

        Parameters
        ----------
        progress : Progress
            Its ``finished`` is the epoch, which may have been cut short.

        Returns
        -------
        bool or None
            True to end the run now.
        """

    def on_end(self, history: History) -> None:
        """Called at the end of the run.

        It is called once for every ``on_start``, however the run ends: by itself, by a callback or by an exception,
        which ``history.error`` then names. The network has its final weights.

        Parameters
        ----------
        history : History
            What ``fit`` will return.
        """


class _Function(Callback):
    """A plain function, called after every batch."""

    def __init__(self, function: Callable[[Progress], bool | None]):
        self._function = function

    def on_batch(self, progress: Progress) -> bool | None:
        return self._function(progress)


class Callbacks(Callback):
    """Several callbacks as one, which ends a run if any of them does.

    Raises TypeError if one is neither a `Callback` nor a function, or if they are not in a list.
    """

    def __init__(self, callbacks: Iterable[Callback | Callable[[Progress], bool | None]]):
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks takes a list, such as callbacks=[display]; got {callbacks!r}")
        self._all: list[Callback] = []
        for callback in callbacks:
            if isinstance(callback, Callback):
                self._all.append(callback)
            elif callable(callback) and not isinstance(callback, type):
                self._all.append(_Function(callback))
            else:
                raise TypeError(
                    f"callbacks takes objects of classes derived from slide.train.callbacks.Callback, and functions to "
                    f"be called after every batch; got {callback!r}"
                )

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._all)

    def on_batch(self, progress: Progress) -> bool:
        """Call all; return whether one of them ends the run."""
        # A list, not a generator, so that every callback is called.
        return any([callback.on_batch(progress) for callback in self._all])

    def on_epoch(self, progress: Progress) -> bool:
        """Call all; return whether one of them ends the run."""
        return any([callback.on_epoch(progress) for callback in self._all])

    @contextlib.contextmanager
    def following(self, run: Run, history: History) -> Iterator[None]:
        """Call ``on_start`` of all and, when the block ends, ``on_end`` of each whose ``on_start`` returned.

        If the block raises, `history` gets the ``error`` first.
        """
        with contextlib.ExitStack() as ends:
            try:
                for callback in self._all:
                    callback.on_start(run)
                    ends.callback(callback.on_end, history)
                yield
            except BaseException as error:
                history.error = f"{type(error).__name__}: {error}".removesuffix(": ")
                raise
