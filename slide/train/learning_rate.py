"""Schedules of the learning rate: the factor of the learning rate for each batch of a run.

A run has n batches, the first w of which are the warm-up. After t batches, the factor of the next batch is

- ``(t + 1) / (w + 1)`` while t < w, in every schedule. After the warm-up, with p = (t - w) / (n - w), the share of the
  remaining batches that is done, and f, the setting ``final_lr``:
- ``"linear"``: ``1 - (1 - f) p``;
- ``"cosine"``: ``f + (1 - f) cos(pi p / 2)**2``, which is the usual ``f + (1 - f) (1 + cos(pi p)) / 2`` (Loshchilov
  and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, without restarts);
- ``"step"``: ``step_factor ** floor((t - w) / s)``, where s is the number of batches in ``step_every`` epochs;
- ``"inverse_sqrt"``: ``1 / sqrt(1 + (t - w) / d)``, where d is ``decay_batches``. It falls without end, for streams
  (Zinkevich, *Online Convex Programming and Generalized Infinitesimal Gradient Ascent*, ICML 2003);
- ``"constant"``: 1.

p would reach 1, and ``"linear"`` and ``"cosine"`` would reach f, one batch after the last: with f = 0 every batch still
counts. The names are fields of `TrainingConfig`. The schedule by which hash tables are rebuilt is
`slide.lsh.schedule`.
"""

from __future__ import annotations

import math

from slide.config import TrainingConfig


def warmup_batches(config: TrainingConfig, n_batches: int) -> int:
    """Return the number of batches of the warm-up of a run of `n_batches`, which may be fewer."""
    return int(config.warmup) if config.warmup >= 1 else round(config.warmup * n_batches)


def lr_factor(config: TrainingConfig, batch: int, n_batches: int, per_epoch: int) -> float:
    """Return the factor of the learning rate for a batch, from 0 to 1.

    Parameters
    ----------
    config : TrainingConfig
        ``schedule`` and the settings that it depends on.
    batch : int
        Number of the batch, from 0 to ``n_batches - 1``, over all epochs.
    n_batches : int
        Number of batches of the run.
    per_epoch : int
        Number of batches of an epoch.
    """
    warmup = warmup_batches(config, n_batches)
    if batch < warmup:
        return (batch + 1) / (warmup + 1)
    done = batch - warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return float(config.step_factor ** (done // (config.step_every * per_epoch)))
    if config.schedule == "inverse_sqrt":
        return 1.0 / math.sqrt(1.0 + done / config.decay_batches)
    share = done / (n_batches - warmup)
    if config.schedule == "linear":
        return 1.0 - (1.0 - config.final_lr) * share
    # The squared cosine of half the angle does not round to zero near the end, as 1 + cos does.
    return config.final_lr + (1.0 - config.final_lr) * math.cos(0.5 * math.pi * share) ** 2
