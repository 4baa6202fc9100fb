"""Which epoch of a run was best, when to stop waiting for a better one, and the weights it had."""

from __future__ import annotations

import numpy as np

from slide.config import ConfigError, TrainingConfig
from slide.files.fields import read_count, read_figures
from slide.model.base import BaseNetwork


class BestEpoch:
    """Follows the monitored metric from one measured epoch to the next.

    Parameters
    ----------
    config : TrainingConfig
        Its ``monitor``, ``min_delta``, ``patience`` and ``keeps_best``.

    Attributes
    ----------
    epoch : int or None
        The best so far: the last that was more than ``min_delta`` better than the best before it.
    quality : dict
        Its metrics.
    weights : dict of array or None
        Those the network had at its end, by name, where they are kept.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.epoch: int | None = None
        self.quality: dict[str, float] = {}
        self.weights: dict[str, np.ndarray] | None = None
        self._step = 0

    def measured(self, epoch: int, quality: dict[str, float], network: BaseNetwork) -> bool:
        """Take note of an epoch, and of the network's weights if it is the best and they are to be kept.

        Parameters
        ----------
        epoch : int
        quality : dict
            Its metrics.
        network : BaseNetwork

        Returns
        -------
        bool
            Whether patience has run out.

        Raises
        ------
        ConfigError
            The monitored metric was not measured.
        """
        monitor, patience = self.config.monitor, self.config.patience
        if monitor not in quality:
            raise ConfigError(f"TrainingConfig.monitor is {monitor!r}; on this data there is {', '.join(quality)}")
        if self.epoch is None or quality[monitor] > self.quality[monitor] + self.config.min_delta:
            self.epoch, self.quality, self._step = epoch, quality, network.step
            if self.config.keeps_best:
                # The copy before is let go first, so that there is never more than one.
                self.weights = None
                self.weights = network.copy_weights()
        return patience is not None and epoch - self.epoch >= patience

    def state(self) -> dict:
        """Return all but the weights, as plain values that ``restore`` takes."""
        return {"epoch": self.epoch, "quality": self.quality, "step": self._step}

    def restore(self, state: dict, weights: dict[str, np.ndarray] | None) -> None:
        """Follow on from where another stood.

        Parameters
        ----------
        state : dict
            What ``state`` returned.
        weights : dict of array or None

        Raises
        ------
        KeyError, TypeError, ValueError
            Something is missing or is not what it should be.
        """
        epoch, quality = read_count(state, "epoch", optional=True), read_figures(state, "quality")
        if epoch is not None and self.config.monitor not in quality:
            raise ValueError(f"quality must have {self.config.monitor}, by which epoch {epoch} was best")
        self.epoch, self.quality, self._step = epoch, quality, read_count(state, "step")
        self.weights = weights

    def put_back(self, network: BaseNetwork) -> None:
        """Give the network the weights of the best epoch, if they were kept and it has been trained since."""
        if self.weights is not None and network.step != self._step:
            network.set_weights(self.weights)
