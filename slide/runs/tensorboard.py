"""A run for TensorBoard, written while it goes on; tensorboardX is an extra (``tensorboard``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import tomli_w

from slide.config import RunConfig
from slide.config.dicts import to_dict
from slide.runs.pace import Pace
from slide.system.extras import load_extra
from slide.train.callbacks import Callback, Run

if TYPE_CHECKING:
    from slide.train.records import History, Progress


class TensorBoard(Callback):
    """Writes the curves of a run for ``tensorboard --logdir FOLDER``, against the number of batches.

    The curves are ``training/loss``, ``training/P_at_1``, ``training/active``, ``training/lr``,
    ``training/rehash_share`` and ``memory/rss_bytes``, as often as in the history, and ``measured/P_at_1`` and so on
    after epochs; TensorBoard's names cannot have an @. The settings are a text. To compare runs, give each a folder of
    its own below FOLDER.

    Parameters
    ----------
    folder : path-like
        Folder to write to; it is made if it does not exist.

    Raises
    ------
    MissingExtra
        tensorboardX is not installed; an ImportError.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self._folder = os.fspath(folder)
        self._module = load_extra("tensorboardX", "tensorboard", "what TensorBoard reads")

    def on_start(self, run: Run) -> None:
        """Begin a file; if the run goes on from a checkpoint, hide what was recorded after that."""
        step = run.progress.batch
        self._writer = self._module.SummaryWriter(self._folder, purge_step=step + 1 if step else None)
        self._pace, self._process = Pace(run.progress.batches), psutil.Process()
        settings = tomli_w.dumps(to_dict(RunConfig(run.network.config, run.config)))
        self._writer.add_text("settings", f"```toml\n{settings}```", step)

    def on_batch(self, progress: Progress) -> None:
        """Write the next value of each curve if it is time for one."""
        if not self._pace.due(progress.batch):
            return
        self._write(
            {
                "training/loss": progress.loss,
                "training/P_at_1": progress.precision,
                "training/active": progress.active,
                "training/lr": progress.lr,
                "training/rehash_share": progress.rehash_seconds / progress.seconds if progress.seconds else 0.0,
                "memory/rss_bytes": self._process.memory_info().rss,
            },
            progress.batch,
        )

    def on_epoch(self, progress: Progress) -> None:
        """Write the quality that was measured."""
        assert progress.finished is not None, "an epoch has ended"
        quality = progress.finished.quality
        self._write({f"measured/{name.replace('@', '_at_')}": quality[name] for name in quality}, progress.batch)
        self._writer.flush()

    def on_end(self, history: History) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
