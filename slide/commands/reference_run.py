"""``slide train --reference-config``: the C++ program's settings, and the data as the program reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from scipy.sparse import csr_matrix

from slide import reference
from slide.commands.console import log
from slide.commands.inputs import load
from slide.config import ConfigError
from slide.data import DataError, Dataset
from slide.reference import Reference


def read_reference(args: argparse.Namespace) -> Reference | None:
    """Read the C++ program's configuration, if one is given, and log what is done differently."""
    if args.reference_config is None:
        return None
    found = reference.read(args.reference_config)
    for note in found.notes:
        log.info("%s: %s", args.reference_config, note)
    return found


def reference_data(args: argparse.Namespace, settings: Reference) -> tuple[Dataset, Dataset | None]:
    """Return the training set and, if there is one, the test set: those of the command line or the configuration."""
    train, test = args.train or settings.train, args.test or settings.test
    if train is None:
        raise ConfigError(
            f"{settings.path}: trainData is missing; expected a line trainData = FILE, or the file on the command line"
        )
    return (
        _cut(load(train, args), train, settings, "totRecords", settings.train_samples),
        None if test is None else _cut(load(test, args), test, settings, "totRecordsTest", settings.test_samples),
    )


def _cut(data: Dataset, file: Path, settings: Reference, name: str, samples: int | None) -> Dataset:
    """Return the samples of a data set that the C++ program reads, with the sizes that its configuration states."""
    for what, found, expected, setting in (
        ("features", data.n_features, settings.n_features, "InputDim"),
        ("labels", data.n_labels, settings.n_labels, "sizesOfLayers"),
    ):
        if found > expected:
            raise DataError(
                f"{file} has {found:,} {what}, {settings.path} {expected:,} ({setting}): they do not belong together"
            )
        if found < expected:
            log.info("%s has %s %s, padded to the %s of %s", file, f"{found:,}", what, f"{expected:,}", setting)
    if samples is not None and samples < data.n_samples:
        counts = f"{data.n_samples:,}", f"{samples:,}"
        log.info("%s: %s samples, of which the first %s are used (%s, whole batches)", file, *counts, name)
        data = data.subset(slice(0, samples))
    elif samples is not None and samples > data.n_samples:
        counts = f"{data.n_samples:,}", f"{samples:,}"
        log.info("%s has %s samples, which are all used, fewer than the %s of %s", file, *counts, name)
    if (data.n_features, data.n_labels) == (settings.n_features, settings.n_labels):
        return data
    shapes = (data.n_samples, settings.n_features), (data.n_samples, settings.n_labels)
    X, Y = (csr_matrix((m.data, m.indices, m.indptr), shape) for m, shape in zip((data.X, data.Y), shapes, strict=True))
    return Dataset(X, Y, name=data.name)
