"""How the learning rate goes over a run: from the number of a batch to the factor that the learning rate is given.

With t batches done of the n of the run, and w of them the warm-up's, the factor of the next batch is

- ``(t + 1) / (w + 1)`` while t < w, whatever the schedule; and after that, with p = (t - w) / (n - w) for the share
  of the rest that is done and f for ``final_lr``,
- ``"linear"``: ``1 - (1 - f) p``;
- ``"cosine"``: ``f + (1 - f) cos(pi p / 2)**2``, which is the usual ``f + (1 - f) (1 + cos(pi p)) / 2`` (Loshchilov
  and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, without restarts);
- ``"step"``: ``step_factor ** floor((t - w) / s)``, where s is the batches of ``step_every`` epochs;
- ``"inverse_sqrt"``: ``1 / sqrt(1 + (t - w) / d)``, where d is ``decay_batches``: a fall without an end, for streams
  (Zinkevich, *Online Convex Programming and Generalized Infinitesimal Gradient Ascent*, ICML 2003);
- ``"constant"``: 1.

p reaches 1, and linear and cosine their end f, one batch after the last, so that with f = 0 every batch still counts.
The names are fields of `TrainingConfig`. When hash tables are rebuilt is another matter; see `slide.lsh.schedule`.
"""

from __future__ import annotations

import math

from slide.config import TrainingConfig


def warmup_batches(config: TrainingConfig, n_batches: int) -> int:
    """Return how many batches the warm-up takes; a run may be shorter.

    Parameters
    ----------
    config : TrainingConfig
    n_batches : int
        Of the run.
    """
    return int(config.warmup) if config.warmup >= 1 else round(config.warmup * n_batches)


def lr_factor(config: TrainingConfig, batch: int, n_batches: int, per_epoch: int) -> float:
    """Return what the learning rate is multiplied by for a batch.

    Parameters
    ----------
    config : TrainingConfig
        ``schedule`` and what it depends on.
    batch : int
        Counted from 0, over all epochs.
    n_batches : int
        Of the run; `batch` is below.
    per_epoch : int
        Batches of an epoch.

    Returns
    -------
    float
        From 0 to 1.
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
