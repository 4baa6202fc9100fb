"""Configuration files of the authors' C++ program, SLIDE, as settings of this package.

A file has a line ``name = value`` for each setting, with commas between the values of layers; a line that has a ``#``
is a comment. `read` turns a file into a `RunConfig`, and notes every setting that is handled differently, and how.
`slide.reference.weights` reads the weights that the program saves.

The program samples a layer if its `Sparsity` in training is below 1. A sample then computes its labels and all neurons
that it finds in `L` hash tables with buckets of 128; if these are fewer than 1,000, random neurons make up the number.
The value of `Sparsity` has no further effect there. Here it does: it is the share of neurons that a sample computes, at
least 1,000.

Where there is no setting, this package does what the program does, as far as it can: softmax over the computed neurons,
whose target a sample's labels share evenly; Adam over all rows; samples in the order of the file, not scaled; the last,
incomplete batch left out. Initial weights differ: the program draws all weights and biases from a normal distribution
of standard deviation 0.01.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slide.config import (
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)

IDS = 2**31 - 1
"""Largest id or number of something."""

LEAST_ACTIVE = 1000
"""Smallest number of neurons per sample; the program adds random ones where a sample finds fewer."""

CAPACITY = 128
"""Neurons per bucket."""

BIN_SIZE, CODE_BITS = 8, 2
"""Coordinates per hash code, and bits per code in a bucket's number. A code of the program has three bits but gets two
in the bucket's number, so that codes overlap: of ``2**RangePow`` buckets the program uses ``7 * (4**K - 1) / 3``."""

EVALUATED = 50
"""Number of batches of test data that the program measures quality on after an epoch."""


@dataclass(frozen=True)
class _Kind:
    """Allowed values of a setting: whole or other numbers, between two bounds, one or one for each layer."""

    whole: bool = True
    low: float = 1
    high: float = IDS
    several: bool = False

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        bounds = f"from {self.low:,} to {self.high:,}" if self.low else f"above 0, at most {self.high:,}"
        return f"{number} {bounds}" + (" for each layer, with commas between" if self.several else "")

    def read(self, text: str) -> Any:
        """Return the value, a number or a list of numbers, or None if it is not allowed."""
        parts = text.split(",") if self.several else [text]
        try:
            numbers = [int(part) if self.whole else float(part) for part in parts]
        except ValueError:
            return None
        if not all(math.isfinite(n) and self.low <= n <= self.high and n for n in numbers):
            return None
        return numbers if self.several else numbers[0]


NUMBERS = {
    "numLayer": _Kind(low=2, high=64),
    "sizesOfLayers": _Kind(several=True),
    "InputDim": _Kind(),
    "K": _Kind(high=16, several=True),
    "L": _Kind(high=1024, several=True),
    "RangePow": _Kind(high=30, several=True),
    "Sparsity": _Kind(whole=False, low=0, high=1, several=True),
    "Batchsize": _Kind(high=2**20),
    "Rehash": _Kind(),
    "Rebuild": _Kind(),
    "Lr": _Kind(whole=False, low=0, high=1000),
    "Epoch": _Kind(high=10**6),
    "Stepsize": _Kind(),
    "totRecords": _Kind(),
    "totRecordsTest": _Kind(),
}
PATHS = ("trainData", "testData", "weight", "savedweight", "logFile")
OPTIONAL = ("Stepsize", "totRecords", "totRecordsTest", *PATHS)
"""Settings that a file need not have."""


@dataclass(frozen=True)
class Reference:
    """A configuration file of the C++ program, as settings of this package.

    Attributes
    ----------
    path : Path
        The file.
    config : RunConfig
        The settings.
    notes : list of str
        One note for each setting that is handled differently: its name, and how it is handled.
    n_features, n_labels : int
        Sizes of the network.
    train, test : Path or None
        Files of the data.
    train_samples, test_samples : int or None
        Number of samples to use, from the first on: whole batches. None for all.
    """

    path: Path
    config: RunConfig
    notes: list[str]
    n_features: int
    n_labels: int
    train: Path | None
    test: Path | None
    train_samples: int | None
    test_samples: int | None


def read(path: str | os.PathLike) -> Reference:
    """Read a configuration file of the C++ program.

    Parameters
    ----------
    path : path-like
        The file (.csv).

    Returns
    -------
    Reference

    Raises
    ------
    ConfigError
        A setting is unknown, missing or has a value that is not allowed; the message names the file, the line and the
        setting.
    OSError
        The file cannot be read.
    """
    settings = _Settings(Path(path))
    n_layers, sizes = settings["numLayer"], settings["sizesOfLayers"]
    for name in ("sizesOfLayers", "K", "L", "RangePow"):
        settings.check_length(name, n_layers, f"one number for each of the {n_layers} layers (numLayer)")
    expected = f"{2 * n_layers} numbers: for each of the {n_layers} layers one in training, then one in prediction"
    settings.check_length("Sparsity", 2 * n_layers, expected)
    for i, units in enumerate(sizes[:-1]):
        if units > 2**16:
            raise settings.wrong("sizesOfLayers", f"at most {2**16:,} units in a hidden layer", f"{units} (layer {i})")
    batch = settings["Batchsize"]
    for name in ("Rehash", "Rebuild", "totRecords", "totRecordsTest"):
        if settings.get(name, batch) < batch:
            raise settings.wrong(name, f"at least Batchsize, {batch:,} samples")
    layers = [_Layer(settings, i) for i in range(n_layers)]
    hidden = [
        HiddenConfig(units=layer.size, activation="relu", candidates=layer.candidates, dropout=0.0, **layer.tables())
        for layer in layers[:-1]
    ]
    output = layers[-1]
    network = NetworkConfig(
        hidden=tuple(hidden),
        output=OutputConfig(
            candidates=output.candidates, correction="none", loss="softmax", targets="mean", **output.tables()
        ),
        optimizer=OptimizerConfig(name="adam", lr=settings["Lr"], beta1=0.9, beta2=0.999, eps=1e-8, lazy="exact"),
        normalize=False,
    )
    training = TrainingConfig(
        epochs=settings["Epoch"],
        batch_size=batch,
        shuffle=False,
        schedule="constant",
        eval_points=EVALUATED * batch,
    )
    return Reference(
        path=Path(path),
        config=RunConfig(network, training),
        notes=_notes(settings, layers),
        n_features=settings["InputDim"],
        n_labels=sizes[-1],
        train=settings.file("trainData"),
        test=settings.file("testData"),
        train_samples=_whole_batches(settings.get("totRecords"), batch),
        test_samples=_whole_batches(settings.get("totRecordsTest"), batch),
    )


class _Settings:
    """The settings of a file by name, and the numbers of their lines."""

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, Any] = {}
        self._lines: dict[str, int] = {}
        self.notes: list[str] = []
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file: {error}") from None
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and "#" not in line:
                self._read_line(number, line)
        missing = [name for name in (*NUMBERS, *PATHS) if name not in self._values and name not in OPTIONAL]
        if missing:
            what = NUMBERS[missing[0]]
            raise ConfigError(f"{path}: {missing[0]} is missing; expected a line {missing[0]} = {what}")

    def _read_line(self, number: int, line: str) -> None:
        name, equals, text = (part.strip() for part in line.partition("="))
        where = f"{self.path}, line {number}"
        if not equals:
            raise ConfigError(f"{where}: expected name = value, got {line.strip()!r}")
        if name not in NUMBERS and name not in PATHS:
            raise ConfigError(f"{where}: unknown setting {name!r}; expected one of {', '.join((*NUMBERS, *PATHS))}")
        if name in self._lines:
            self.notes.append(f"{name}: is on lines {self._lines[name]} and {number}; the last one counts")
        self._lines[name] = number
        self._values[name] = text if name in PATHS else NUMBERS[name].read(text)
        if name in PATHS and not text:
            raise ConfigError(f"{where}: {name} must be the path of a file, got nothing")
        if self._values[name] is None:
            raise ConfigError(f"{where}: {name} must be {NUMBERS[name]}, got {text!r}")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default if the file does not have it."""
        return self._values.get(name, default)

    def wrong(self, name: str, expected: str, found: str | None = None) -> ConfigError:
        """Return the error for a setting that does not go with the others."""
        found = self[name] if found is None else found
        return ConfigError(f"{self.path}, line {self._lines[name]}: {name} must be {expected}, got {found}")

    def check_length(self, name: str, length: int, expected: str) -> None:
        """Raise ConfigError if a setting has another number of values."""
        if len(self[name]) != length:
            raise self.wrong(name, expected, f"{len(self[name])}")

    def file(self, name: str) -> Path | None:
        """Return a file: relative to the current folder, as the program finds it, or else to the configuration's."""
        if name not in self:
            return None
        path = Path(self[name])
        beside = self.path.parent / path
        return beside if not path.exists() and beside.exists() else path


class _Layer:
    """One layer of the program: its size, and its hash tables if it uses them."""

    def __init__(self, settings: _Settings, i: int):
        self.number = i
        self.size = settings["sizesOfLayers"][i]
        shares = settings["Sparsity"]
        self.sparsity, self.sparsity_in_prediction = shares[i], shares[len(shares) // 2 + i]
        self.active = min(self.size, max(LEAST_ACTIVE, math.floor(self.size * self.sparsity)))
        self.k, self.l, self.bits = settings["K"][i], settings["L"][i], settings["RangePow"][i]
        self._period = settings["Rehash"] // settings["Batchsize"]
        self._renew = max(1, round(settings["Rebuild"] / settings["Rehash"]))

    @property
    def is_sampled(self) -> bool:
        """Whether samples compute only some of the neurons."""
        return self.sparsity < 1 and self.active < self.size

    @property
    def candidates(self) -> str:
        """The mode of this package that does the same."""
        return "lsh" if self.is_sampled else "full"

    def tables(self) -> dict[str, Any]:
        """Return the settings of the hash tables, empty if there are none."""
        if not self.is_sampled:
            return {}
        return {
            "budget": self.active,
            "lsh": LSHConfig(
                family="dwta",
                k=self.k,
                l=self.l,
                bin_size=BIN_SIZE,
                code_bits=CODE_BITS,
                bucket_bits=self.bits,
                capacity=CAPACITY,
                insertion="fifo",
            ),
            "rehash": RehashConfig(schedule="fixed", period=self._period, renew=self._renew),
            "sampling": SamplingConfig(policy="vanilla", fill="uniform"),
        }


def _whole_batches(samples: int | None, batch: int) -> int | None:
    return None if samples is None else samples // batch * batch


def _notes(settings: _Settings, layers: list[_Layer]) -> list[str]:
    """Return a note for each setting that is handled differently, and how."""
    notes = list(settings.notes)
    for layer in layers:
        tables = f"K={layer.k}, L={layer.l}, RangePow={layer.bits} of layer {layer.number}"
        if layer.is_sampled:
            notes.append(
                f"Sparsity={layer.sparsity:g} of layer {layer.number}: a sample computes {layer.active:,} of "
                f"{layer.size:,} neurons: those that it finds in the hash tables, and random ones up to that number; "
                f"the reference computes all that it finds, up to {layer.l * CAPACITY:,}, and random ones only up to "
                f"{LEAST_ACTIVE:,}"
            )
            notes.append(
                f"{tables}: hash tables of densified winner-take-all codes with buckets of {CAPACITY}, as in the "
                "reference, but with hash functions of their own: different neurons share a bucket"
            )
        elif layer.sparsity < 1:
            notes.append(
                f"Sparsity={layer.sparsity:g} of layer {layer.number}: all {layer.size:,} neurons are computed, "
                f"because the reference adds random ones up to {LEAST_ACTIVE:,}; {tables} have no effect"
            )
        else:
            notes.append(f"{tables}: no effect, as in the reference: with a Sparsity of 1 all neurons are computed")
        if layer.sparsity_in_prediction < 1:
            notes.append(
                f"Sparsity={layer.sparsity_in_prediction:g} of layer {layer.number} in prediction: every label is "
                "scored here; slide evaluate MODEL TEST --mode lsh also measures prediction through hash tables"
            )
    rehash, rebuild, batch = settings["Rehash"], settings["Rebuild"], settings["Batchsize"]
    if not any(layer.is_sampled for layer in layers):
        notes.append(f"Rehash={rehash}, Rebuild={rebuild}: no effect, no layer has hash tables")
    else:
        if rehash % batch:
            notes.append(f"Rehash={rehash}: every {rehash // batch:,} batches, which are slightly fewer samples")
        if rebuild % rehash:
            notes.append(
                f"Rebuild={rebuild}: new hash functions come with new tables, at rehashing number "
                f"{max(1, round(rebuild / rehash))} and its multiples, which is not exactly that many samples"
            )
    if "Stepsize" in settings:
        notes.append(
            f"Stepsize={settings['Stepsize']}: quality is measured after each epoch, on {EVALUATED * batch:,} samples "
            "of the test data drawn at random; the reference takes the first samples, after every Stepsize batches"
        )
    if "weight" in settings:
        notes.append(
            f"weight={settings['weight']}: not read, as in the reference unless it was compiled to read weights; "
            "slide import-reference makes a network from such weights"
        )
    if "savedweight" in settings:
        notes.append(f"savedweight={settings['savedweight']}: not written; the network is saved in the folder of --out")
    if "logFile" in settings:
        notes.append(f"logFile={settings['logFile']}: not written; the log is on standard error, figures with --json")
    return notes
