"""Early stopping: which epoch of a run was best, when to stop waiting for a better one, and the best weights."""

from __future__ import annotations

import numpy as np

from slide.config import ConfigError, TrainingConfig
from slide.files.fields import read_count, read_figures
from slide.model.base import BaseNetwork


class BestEpoch:
    """Follows the monitored metric from one measured epoch to the next.

    Of the configuration, ``monitor``, ``min_delta``, ``patience`` and ``keeps_best`` count.

    Attributes
    ----------
    epoch : int or None
        The best epoch so far: the last that was more than ``min_delta`` better than the best before it.
    quality : dict
        Its metrics.
    weights : dict of array or None
        The network's weights at its end, by name; None if they are not kept.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.epoch: int | None = None
        self.quality: dict[str, float] = {}
        self.weights: dict[str, np.ndarray] | None = None
        self._step = 0

    def measured(self, epoch: int, quality: dict[str, float], network: BaseNetwork) -> bool:
        """Record the metrics of an epoch and, if it is the best and they are to be kept, the network's weights.

        Returns whether patience has run out. Raises ConfigError if the monitored metric was not measured.
        """
        monitor, patience = self.config.monitor, self.config.patience
        if monitor not in quality:
            raise ConfigError(f"TrainingConfig.monitor is {monitor!r}; on this data there is {', '.join(quality)}")
        if self.epoch is None or quality[monitor] > self.quality[monitor] + self.config.min_delta:
            self.epoch, self.quality, self._step = epoch, quality, network.step
            if self.config.keeps_best:
                # Free the former copy first, so that there is never more than one.
                self.weights = None
                self.weights = network.copy_weights()
        return patience is not None and epoch - self.epoch >= patience

    def state(self) -> dict:
        """Return everything but the weights, as plain values that ``restore`` takes."""
        return {"epoch": self.epoch, "quality": self.quality, "step": self._step}

    def restore(self, state: dict, weights: dict[str, np.ndarray] | None) -> None:
        """Go on from what ``state`` returned; KeyError, TypeError or ValueError if it is not complete and valid."""
        epoch, quality = read_count(state, "epoch", optional=True), read_figures(state, "quality")
        if epoch is not None and self.config.monitor not in quality:
            raise ValueError(f"quality must have {self.config.monitor}, because epoch {epoch} is the best by it")
        self.epoch, self.quality, self._step = epoch, quality, read_count(state, "step")
        self.weights = weights

    def put_back(self, network: BaseNetwork) -> None:
        """Give the network the weights of the best epoch, if they were kept and it has been trained since."""
        if self.weights is not None and network.step != self._step:
            network.set_weights(self.weights)
