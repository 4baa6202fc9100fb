"""The losses in PyTorch's own operations, for parameters in double precision: slow, plain, and differentiable.

They are those of the float32 kernels, from the same candidates, so that ``torch.autograd.gradcheck`` can check a layer
and tests can check the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import softplus

from slide.config import OutputConfig


class Scores(NamedTuple):
    """Every sample's candidates side by side: those that the batch shares, then its own.

    Attributes
    ----------
    logits : float tensor [samples, candidates]
        Logits without correction; arbitrary where there is no candidate.
    there : bool tensor [samples, candidates]
        Whether there is a candidate.
    stands_for : float tensor [samples, candidates]
        Number of labels that each candidate stands for.
    """

    logits: torch.Tensor
    there: torch.Tensor
    stands_for: torch.Tensor


def losses(
    scores: Scores, samples: torch.Tensor, places: torch.Tensor, target: torch.Tensor, config: OutputConfig
) -> torch.Tensor:
    """Return each sample's loss, as `slide.kernels.losses` defines it: a float tensor [samples].

    Parameters
    ----------
    scores : Scores
    samples, places : int64 tensors [labels]
        For each label, its sample and its place among the candidates.
    target : float tensor [labels]
        Factor of each label's term.
    config : OutputConfig
    """
    wanted = torch.zeros_like(scores.logits).index_put((samples, places), target.to(scores.logits.dtype))
    if config.loss == "softmax":
        return _softmax(scores, wanted, config.label_smoothing)
    labels = torch.zeros_like(scores.there).index_put((samples, places), torch.ones_like(places, dtype=torch.bool))
    return _logistic(scores, wanted, labels, config.label_smoothing)


def _softmax(scores, wanted, smoothing):
    raw = scores.logits.masked_fill(~scores.there, 0.0)
    corrected = (raw + scores.stands_for.log()).masked_fill(~scores.there, -torch.inf)
    mass = wanted.sum(1)
    hit = (wanted * corrected.masked_fill(~scores.there, 0.0)).sum(1)
    if smoothing:
        weights = scores.stands_for * scores.there
        hit = (1 - smoothing) * hit + smoothing * mass * (weights * raw).sum(1) / weights.sum(1)
    return mass * corrected.logsumexp(1) - hit


def _logistic(scores, wanted, labels, smoothing):
    raw = scores.logits.masked_fill(~scores.there, 0.0)
    no, yes = 0.5 * smoothing, 1 - 0.5 * smoothing
    of_labels = wanted * (softplus(raw) - yes * raw)
    of_others = scores.stands_for * (softplus(raw) - no * raw) * (scores.there & ~labels)
    labelled = labels.any(1)
    return (of_labels + of_others).sum(1) * labelled
