"""Settings of a training run, and of the network and its training together."""

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
    """The training loop.

    Parameters
    ----------
    epochs : int
        Passes over the data.
    batch_size : int
    max_batches : int, optional
        Stop after so many batches, whatever the epochs say.
    shuffle : bool
        Draw a new order of the data for every epoch.
    shuffle_window : int, optional
        Shuffle in windows of so many samples, each of 64 blocks from all over the data; see `slide.data.order`. Of data
        that is mapped into memory a window is read at a time. By default the data as a whole is shuffled or, where it
        is mapped, windows of 64 MiB.
    schedule : str
        Of the learning rate: ``"linear"`` or ``"cosine"`` decay to `final_lr` over the run, ``"step"`` (times
        `step_factor` after every `step_every` epochs), ``"inverse_sqrt"`` decay, which needs no end, or ``"constant"``;
        `slide.train.learning_rate` has the formulae.
    warmup : float
        Batches over which the learning rate first rises from near zero to full; below 1 a share of the run's batches.
        The schedule then goes over the rest.
    final_lr : float
        Linear and cosine only: what they end at, as a share of the learning rate.
    step_every : int
        Step only: epochs between two steps, counted from the end of the warm-up.
    step_factor : float
        Step only.
    decay_batches : int
        Inverse_sqrt only: after three times as many batches, past the warm-up, the learning rate is at its half.
    eval_points : int
        Samples, drawn at random once, on which quality is followed during training; 0 for none.
    eval_every : int
        Epochs from one measurement of quality to the next; the last epoch is always measured.
    holdout : float
        Share of the training samples that is set aside, drawn by the seed, to follow quality on where there is no other
        validation data; never more than `eval_points` of them, since the rest would be lost for nothing.
    patience : int, optional
        Stop once so many epochs in a row have brought no improvement; by default never. The schedule of the learning
        rate goes over the epochs planned: a linear run that stops early ends at a learning rate that has not yet
        fallen.
    monitor : str
        The metric that is to improve: ``"P@1"``, ``"nDCG@5"`` and so on, of P, nDCG, R and PSP at 1, 3 and 5.
    min_delta : float
        What counts as an improvement: more than this above the best so far, as a fraction of 1.
    keep_best : bool, optional
        At the end put back the weights of the best epoch, of which a copy is kept meanwhile; by default where there
        is `patience`.
    on_fault : str
        What becomes of a batch whose numbers are NaN, infinite or about to overflow: ``"stop"`` ends the run with a
        `slide.model.faults.NumericalFault`; ``"skip"`` leaves the batch out, which changes no weight, and ends the run after
        ten in a row, or where it is the weights that are not finite.
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

    def __post_init__(self):
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
                "TrainingConfig.eval_points must be 1 or more with holdout, patience or keep_best, which are about "
                "the quality measured on these samples"
            )

    @property
    def keeps_best(self):
        """Whether the weights of the best epoch are put back at the end."""
        return self.patience is not None if self.keep_best is None else self.keep_best

    @property
    def needs_validation(self):
        """Whether the course of the run depends on samples to measure quality on."""
        return self.patience is not None or self.keeps_best


@dataclass(frozen=True)
class RunConfig:
    """A whole run: what ``slide train --config`` reads.

    Parameters
    ----------
    network : NetworkConfig
    training : TrainingConfig
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        """Check every field."""
        check_section(self, "network", NetworkConfig)
        check_section(self, "training", TrainingConfig)

    @classmethod
    def from_toml(cls, path):
        """Read a configuration; what the file leaves out keeps its default.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        ConfigError
            The file is not TOML, or has an unknown or wrong field; the message names file and field.
        OSError
            The file cannot be read.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
            return from_dict(cls, tomllib.loads(text))
        except RecursionError:
            raise ConfigError(f"{path}: values are nested more deeply than any setting is") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_toml(self, path):
        """Write the configuration, every field included.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        OSError
            The file cannot be written; what was there before is as it was.
        """
        write_in_place(Path(path), lambda file: file.write(tomli_w.dumps(to_dict(self)).encode("utf-8")))
