"""Settings of a training run, and of a network and its training together."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from slide.config.checks import (
    ConfigError,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_section,
    refuse,
)
from slide.config.dicts import from_dict, to_dict
from slide.config.network import NetworkConfig
from slide.files.atomic import write_in_place

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

SCHEDULES = ("linear", "cosine", "step", "inverse_sqrt", "constant")
FAULTS = ("stop", "skip")
MONITORS = tuple(f"{metric}@{k}" for metric in ("P", "nDCG", "R", "PSP") for k in (1, 3, 5))


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop.

    Parameters
    ----------
    epochs : int
        Number of passes over the data, by default 8.
    batch_size : int
        Number of samples per batch, by default 128.
    max_batches : int, optional
        Number of batches after which training stops, even in the middle of an epoch. By default there is no limit.
    shuffle : bool
        Draw a new order of the data for every epoch, by default True.
    shuffle_window : int, optional
        Shuffle in windows of this many samples, each of 64 blocks from all over the data; see `slide.data.order`. If
        the data is mapped into memory, one window is read at a time. By default all data is shuffled together or, if it
        is mapped, in windows of 64 MiB.
    schedule : str
        Schedule of the learning rate: ``"linear"``, the default, or ``"cosine"`` decay to `final_lr` over the run,
        ``"step"`` (times `step_factor` after every `step_every` epochs), ``"inverse_sqrt"`` decay, which needs no end,
        or ``"constant"``. `slide.train.learning_rate` has the formulae.
    warmup : float
        Number of batches over which the learning rate first rises from near zero to full; below 1, a share of the run's
        batches. The schedule covers the batches that follow. By default 0.
    final_lr : float
        Linear and cosine only: final learning rate, as a share of the full one, by default 0.
    step_every : int
        Step only: number of epochs between two steps, counted from the end of the warm-up, by default 1.
    step_factor : float
        Step only: factor of the learning rate at each step, by default 0.5.
    decay_batches : int
        Inverse_sqrt only: the learning rate has fallen to half after three times this many batches, counted from the
        end of the warm-up. By default 1,000.
    eval_points : int
        Number of samples, drawn at random once, on which quality is measured during training, by default 2,000; 0 for
        no measurements.
    eval_every : int
        Number of epochs between two measurements of quality, by default 1. The last epoch is always measured.
    holdout : float
        Share of the training samples, drawn by the seed, that is set aside to measure quality on if there is no other
        validation data. It is never more than `eval_points` samples, since the others would not be used. By default 0.
    patience : int, optional
        Number of epochs in a row without improvement after which training stops. By default training does not stop
        early. The schedule of the learning rate covers the planned epochs, so a linear run that stops early ends at a
        learning rate that has not yet fallen.
    monitor : str
        Metric that is to improve: P, nDCG, R or PSP at 1, 3 or 5, such as ``"P@1"``, the default, or ``"nDCG@5"``.
    min_delta : float
        Smallest improvement that counts, above the best value so far, as a fraction of 1. By default 0.
    keep_best : bool, optional
        At the end, restore the weights of the best epoch, which takes memory for a copy of them. By default True if
        `patience` is given, and False if not.
    on_fault : str
        What happens to a batch whose numbers are NaN, infinite or about to overflow. ``"stop"``, the default, ends the
        run with a `slide.model.faults.NumericalFault`. ``"skip"`` leaves the batch out, so that no weight changes; it
        ends the run after ten such batches in a row, or if the weights themselves are not finite.

    Raises
    ------
    ConfigError
        A field has a value that it may not have, or `eval_points` is 0 and `holdout`, `patience` or `keep_best` needs
        measurements.
    """

    epochs: int = 8
    batch_size: int = 128
    max_batches: int | None = None
    shuffle: bool = True
    shuffle_window: int | None = None
    schedule: str = "linear"
    warmup: float = 0.0
    final_lr: float = 0.0
    step_every: int = 1
    step_factor: float = 0.5
    decay_batches: int = 1000
    eval_points: int = 2000
    eval_every: int = 1
    holdout: float = 0.0
    patience: int | None = None
    monitor: str = "P@1"
    min_delta: float = 0.0
    keep_best: bool | None = None
    on_fault: str = "stop"

    def __post_init__(self) -> None:
        """Check every field."""
        check_integer(self, "epochs", 1, 10**6)
        check_integer(self, "batch_size", 1, 2**20)
        check_integer(self, "max_batches", 1, 2**31 - 1, optional=True)
        check_boolean(self, "shuffle")
        check_integer(self, "shuffle_window", 1, 2**62, optional=True)
        check_choice(self, "schedule", SCHEDULES)
        check_number(self, "warmup", 0, 10**9)
        if self.warmup > 1 and self.warmup % 1:
            refuse(self, "warmup", "a share of the batches below 1, or from 1 on a whole number of batches")
        check_number(self, "final_lr", 0, 1)
        check_integer(self, "step_every", 1, 10**6)
        check_number(self, "step_factor", 0, 1, open_low=True)
        check_integer(self, "decay_batches", 1, 2**31 - 1)
        check_integer(self, "eval_points", 0, 2**31 - 1)
        check_integer(self, "eval_every", 1, 10**6)
        check_number(self, "holdout", 0, 1, open_high=True)
        check_integer(self, "patience", 1, 10**6, optional=True)
        check_choice(self, "monitor", MONITORS)
        check_number(self, "min_delta", 0, 1)
        check_boolean(self, "keep_best", optional=True)
        check_choice(self, "on_fault", FAULTS)
        if not self.eval_points and (self.holdout or self.needs_validation):
            raise ConfigError(
                "TrainingConfig.eval_points must be 1 or more with holdout, patience or keep_best, which need the "
                "quality measured on these samples"
            )

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are restored at the end."""
        return self.patience is not None if self.keep_best is None else self.keep_best

    @property
    def needs_validation(self) -> bool:
        """Whether the run needs samples to measure quality on."""
        return self.patience is not None or self.keeps_best


@dataclass(frozen=True)
class RunConfig:
    """Settings of a whole run, which ``slide train --config`` reads.

    Parameters
    ----------
    network : NetworkConfig
        The network.
    training : TrainingConfig
        Its training.

    Raises
    ------
    ConfigError
        A field is not such a configuration.

    Examples
    --------
    >>> from slide import RunConfig, TrainingConfig
    >>> RunConfig(training=TrainingConfig(epochs=3)).to_toml("run.toml")  # doctest: +SKIP
    >>> RunConfig.from_toml("run.toml").training.epochs  # doctest: +SKIP
    3
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Check every field."""
        check_section(self, "network", NetworkConfig)
        check_section(self, "training", TrainingConfig)

    @classmethod
    def from_toml(cls, path: str | os.PathLike) -> RunConfig:
        """Read a configuration from a file; fields that the file leaves out keep their defaults.

        Parameters
        ----------
        path : path-like
            The TOML file.

        Returns
        -------
        RunConfig

        Raises
        ------
        ConfigError
            The file is not TOML, or has an unknown or wrong field. The message names the file and the field.
        OSError
            The file cannot be read.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
            return from_dict(cls, tomllib.loads(text))
        except RecursionError:
            raise ConfigError(f"{path}: values are nested more deeply than any setting") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_toml(self, path: str | os.PathLike) -> None:
        """Write the configuration to a file, with every field that is not None.

        Parameters
        ----------
        path : path-like
            The TOML file to make or replace.

        Raises
        ------
        OSError
            The file cannot be written; what was there before is as it was.
        """
        write_in_place(Path(path), lambda file: file.write(tomli_w.dumps(to_dict(self)).encode("utf-8")))
