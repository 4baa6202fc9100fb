"""SampledSoftmaxLoss: a layer's loss as a criterion, in place of ``nn.CrossEntropyLoss``."""

from __future__ import annotations

import torch
from torch import nn

from slide.torch.layer import SampledLinear


class SampledSoftmaxLoss(nn.Module):
    """The loss of a `SampledLinear` over a batch's candidates, as a criterion of hidden vectors and targets.

    Parameters
    ----------
    layer : SampledLinear
        The layer. It belongs to the network and is not a submodule here, so that its parameters are not counted twice.
    reduction : str
        ``"mean"`` (the default), ``"sum"`` or ``"none"``; see `SampledLinear.loss`.
    """

    def __init__(self, layer: SampledLinear, reduction: str = "mean"):
        super().__init__()
        self._layer = (layer,)
        self.reduction = reduction

    def forward(self, hidden: torch.Tensor, targets: object, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``layer.loss(hidden, targets, weights=weights, reduction=reduction)``; see `SampledLinear.loss`."""
        return self._layer[0].loss(hidden, targets, weights=weights, reduction=self.reduction)
