"""Callbacks: what is told how a training run gets on, and may end it.

A callback is an object of a class derived from `Callback`, with those of its four methods that it needs::

    class Patient(Callback):
        def on_epoch(self, progress):
            print(progress.epoch, progress.quality)
            return progress.seconds > 3600

    network.fit(X, Y, callbacks=[Patient()])

A plain function among the callbacks is called as ``on_batch`` is. They are called in the order in which they are given,
in the thread that trains; the time they take is not counted as training. The bar and the log lines of ``slide train``
(`slide.runs.display.TrainingDisplay`), the history that it writes (`slide.runs.history.HistoryFile`) and the writer of
TensorBoard's files (`slide.runs.tensorboard.TensorBoard`) are such callbacks.
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
    """What is to be done; what callbacks are given at the start.

    Attributes
    ----------
    network : BaseNetwork
        A `slide.Network`, or a `slide.distributed.DistributedNetwork`.
    config : TrainingConfig
    samples : int
        To train on, without those that are held out; 0 where nobody knows.
    measured_samples : int
        On which quality is measured at the end of epochs; 0 if it is not.
    progress : Progress
        The one that ``on_batch`` and ``on_epoch`` will be given. Its ``batch`` is 0, or the batches that were done
        before where a run goes on.
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
    """What is told how a run gets on; derive from it and override what is needed.

    Whatever a method raises ends the run with that exception.
    """

    def on_start(self, run: Run) -> None:
        """Be told that training is about to start.

        Parameters
        ----------
        run : Run
        """

    def on_batch(self, progress: Progress) -> bool | None:
        """Be told that a batch is done; return True to end the run after it.

        Parameters
        ----------
        progress : Progress
            The same object every time: copy what is to be kept.
        """

    def on_epoch(self, progress: Progress) -> bool | None:
        """Be told that an epoch is over and, where it is, measured; return True to end the run.

        Parameters
        ----------
        progress : Progress
            Its ``finished`` is the epoch, which may have been cut short.
        """

    def on_end(self, history: History) -> None:
        """Be told that the run is over.

        That is called once for every ``on_start``, however the run ends: by itself, by a callback or by an
        exception, which ``history.error`` then names. The network has the weights that it will keep.

        Parameters
        ----------
        history : History
        """


class _Function(Callback):
    """A plain function, called after every batch."""

    def __init__(self, function: Callable[[Progress], bool | None]):
        self.on_batch = function


class Callbacks(Callback):
    """Several callbacks as one, which ends a run if any of them does.

    Parameters
    ----------
    callbacks : iterable of Callback or callable

    Raises
    ------
    TypeError
        One of them is neither, or they are not in a list.
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
                    f"callbacks takes objects of classes derived from slide.train.callbacks.Callback, and functions to be "
                    f"called after every batch; got {callback!r}"
                )

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._all)

    def on_batch(self, progress: Progress) -> bool:
        """Tell all; return whether one asks for the end."""
        # A list, so that every callback is called.
        return any([callback.on_batch(progress) for callback in self._all])

    def on_epoch(self, progress: Progress) -> bool:
        """Tell all; return whether one asks for the end."""
        return any([callback.on_epoch(progress) for callback in self._all])

    @contextlib.contextmanager
    def following(self, run: Run, history: History) -> Iterator[None]:
        """Tell all of the start and, however the block is left, of the end, each that was told of the start.

        Parameters
        ----------
        run : Run
        history : History
            Given an ``error`` if an exception leaves the block.
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
