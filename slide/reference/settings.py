"""Runs of the authors' C++ program, SLIDE, from the configuration files it reads: what it calls settings, as ours.

A file has a line ``name = value`` for each setting, with commas between the values of layers; a line that has a ``#``
is a comment. `read` turns one into a `RunConfig` and lists, for the settings that something else stands for here, what
does. `slide.reference.weights` reads the weights that the program saves.

The program samples a layer where its `Sparsity` in training is below 1. A sample then computes its labels, all that it
finds in `L` hash tables of buckets of 128 and, where that is fewer than 1,000 neurons, random ones up to there; the
number itself has no effect. Here it has: it is the share of neurons that a sample computes, 1,000 at least.

What no setting says is as in the program where it can be: softmax over the neurons computed, of which a sample's labels
share the target evenly; Adam over all rows; samples in the file's order, unscaled; the last, incomplete batch left out.
Initial weights differ: the program draws all weights and biases from a normal distribution of deviation 0.01.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

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

LEAST_ACTIVE = 1000
"""Neurons that the program makes up with random ones where a sample finds fewer."""

CAPACITY = 128
"""Neurons of a bucket."""

BIN_SIZE, CODE_BITS = 8, 2
"""Coordinates that a hash code looks at, and how many bits of it tell buckets apart: the program gives a code of three
bits two in the bucket's number, where codes overlap: of ``2**RangePow`` buckets it uses ``7 * (4**K - 1) / 3``."""

EVALUATED = 50
"""Batches of test data that the program looks at after an epoch."""


@dataclass(frozen=True)
class _Kind:
    """What a setting's value may be: whole numbers or others, between two bounds, one or one for each layer."""

    whole: bool = True
    low: float = 1
    high: float = IDS
    several: bool = False

    def __str__(self):
        number = "a whole number" if self.whole else "a number"
        bounds = f"from {self.low:,} to {self.high:,}" if self.low else f"above 0, at most {self.high:,}"
        return f"{number} {bounds}" + (" for each layer, with commas between" if self.several else "")

    def read(self, text):
        """Return the value, or None if it is not what it may be."""
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
"""What a run can do without."""


@dataclass(frozen=True)
class Reference:
    """What a configuration file of the C++ program asks for.

    Attributes
    ----------
    path : Path
        The file.
    config : RunConfig
    notes : list of str
        For each setting that is not taken as it is: its name and what happens instead.
    n_features, n_labels : int
    train, test : Path or None
        Data.
    train_samples, test_samples : int or None
        How many samples of them are used, from the first on: whole batches.
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

    Returns
    -------
    Reference

    Raises
    ------
    ConfigError
        A setting is unknown, missing or not what it may be; the message names the file, the line and the setting.
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
        HiddenConfig(
            units=layer.size, activation="relu", candidates=layer.candidates, dropout=0.0, **layer.tables()
        )
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
    """The settings of a file by name, and the lines they stand on."""

    def __init__(self, path):
        self.path = path
        self._values = {}
        self._lines = {}
        self.notes = []
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

    def _read_line(self, number, line):
        name, equals, text = (part.strip() for part in line.partition("="))
        where = f"{self.path}, line {number}"
        if not equals:
            raise ConfigError(f"{where}: expected name = value, got {line.strip()!r}")
        if name not in NUMBERS and name not in PATHS:
            raise ConfigError(f"{where}: unknown setting {name!r}; expected one of {', '.join((*NUMBERS, *PATHS))}")
        if name in self._lines:
            self.notes.append(f"{name}: stands on lines {self._lines[name]} and {number}; the last one counts")
        self._lines[name] = number
        self._values[name] = text if name in PATHS else NUMBERS[name].read(text)
        if name in PATHS and not text:
            raise ConfigError(f"{where}: {name} must be the path of a file, got nothing")
        if self._values[name] is None:
            raise ConfigError(f"{where}: {name} must be {NUMBERS[name]}, got {text!r}")

    def __getitem__(self, name):
        return self._values[name]

    def __contains__(self, name):
        return name in self._values

    def get(self, name, default=None):
        return self._values.get(name, default)

    def wrong(self, name, expected, found=None):
        """Return the error of a setting that does not go with the others."""
        found = self[name] if found is None else found
        return ConfigError(f"{self.path}, line {self._lines[name]}: {name} must be {expected}, got {found}")

    def check_length(self, name, length, expected):
        if len(self[name]) != length:
            raise self.wrong(name, expected, f"{len(self[name])}")

    def file(self, name):
        """A file as the program finds it, from the current folder; or else from that of the configuration."""
        if name not in self:
            return None
        path = Path(self[name])
        beside = self.path.parent / path
        return beside if not path.exists() and beside.exists() else path


class _Layer:
    """One layer of the program: its size, and its hash tables where it has a use for them."""

    def __init__(self, settings, i):
        self.number = i
        self.size = settings["sizesOfLayers"][i]
        shares = settings["Sparsity"]
        self.sparsity, self.sparsity_in_prediction = shares[i], shares[len(shares) // 2 + i]
        self.active = min(self.size, max(LEAST_ACTIVE, math.floor(self.size * self.sparsity)))
        self.k, self.l, self.bits = settings["K"][i], settings["L"][i], settings["RangePow"][i]
        self._period = settings["Rehash"] // settings["Batchsize"]
        self._renew = max(1, round(settings["Rebuild"] / settings["Rehash"]))

    @property
    def is_sampled(self):
        return self.sparsity < 1 and self.active < self.size

    @property
    def candidates(self):
        return "lsh" if self.is_sampled else "full"

    def tables(self):
        """The sections of the hash tables."""
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


def _whole_batches(samples, batch):
    return None if samples is None else samples // batch * batch


def _notes(settings, layers):
    """What happens to settings that are not taken as they are."""
    notes = list(settings.notes)
    for layer in layers:
        tables = f"K={layer.k}, L={layer.l}, RangePow={layer.bits} of layer {layer.number}"
        if layer.is_sampled:
            notes.append(
                f"Sparsity={layer.sparsity:g} of layer {layer.number}: a sample computes {layer.active:,} of "
                f"{layer.size:,} neurons, what it finds in the hash tables and random ones that make up the number; "
                f"the reference computes all it finds, {layer.l * CAPACITY:,} at most, and makes up {LEAST_ACTIVE:,}"
            )
            notes.append(
                f"{tables}: hash tables of densified winner-take-all codes and buckets of {CAPACITY}, as in the "
                "reference, but with functions of their own: other neurons share buckets"
            )
        elif layer.sparsity < 1:
            notes.append(
                f"Sparsity={layer.sparsity:g} of layer {layer.number}: all {layer.size:,} neurons are computed, since "
                f"the reference makes up {LEAST_ACTIVE:,} with random ones; {tables} have no effect"
            )
        else:
            notes.append(f"{tables}: no effect, as in the reference: with a Sparsity of 1 all neurons are computed")
        if layer.sparsity_in_prediction < 1:
            notes.append(
                f"Sparsity={layer.sparsity_in_prediction:g} of layer {layer.number} in prediction: every label is "
                "scored here; slide evaluate MODEL TEST --mode lsh measures prediction through hash tables beside that"
            )
    rehash, rebuild, batch = settings["Rehash"], settings["Rebuild"], settings["Batchsize"]
    if not any(layer.is_sampled for layer in layers):
        notes.append(f"Rehash={rehash}, Rebuild={rebuild}: no effect, no layer has hash tables")
    else:
        if rehash % batch:
            notes.append(f"Rehash={rehash}: every {rehash // batch:,} batches, which is not quite as many samples")
        if rebuild % rehash:
            notes.append(
                f"Rebuild={rebuild}: new hash functions come with tables, at every {max(1, round(rebuild / rehash))}. "
                "rehashing, which is not quite as many samples"
            )
    if "Stepsize" in settings:
        notes.append(
            f"Stepsize={settings['Stepsize']}: quality is followed once an epoch, on {EVALUATED * batch:,} samples of "
            "the test data drawn at random, not every so many batches on the first ones"
        )
    if "weight" in settings:
        notes.append(
            f"weight={settings['weight']}: not read, as in the reference unless it is compiled to; "
            "slide import-reference makes a network of such weights"
        )
    if "savedweight" in settings:
        notes.append(f"savedweight={settings['savedweight']}: not written; the network is saved in the folder of --out")
    if "logFile" in settings:
        notes.append(f"logFile={settings['logFile']}: not written; the log is on standard error, figures with --json")
    return notes
