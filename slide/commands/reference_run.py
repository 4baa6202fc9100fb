"""What ``slide train --reference-config`` reads: the C++ program's settings, and the data as the program reads it."""

from __future__ import annotations

import argparse

from scipy.sparse import csr_matrix

from slide import reference
from slide.commands.console import log
from slide.commands.inputs import load
from slide.config import ConfigError
from slide.data import DataError, Dataset
from slide.reference import Reference


def read_reference(args: argparse.Namespace) -> Reference | None:
    """What the C++ program's configuration asks for, if there is one; what happens otherwise is logged."""
    if args.reference_config is None:
        return None
    found = reference.read(args.reference_config)
    for note in found.notes:
        log.info("%s: %s", args.reference_config, note)
    return found


def reference_data(args: argparse.Namespace, settings: Reference) -> list[Dataset | None]:
    """The training set and, where there is one, the test set of the C++ program's configuration, or those given."""
    files = (args.train or settings.train, args.test or settings.test)
    if files[0] is None:
        raise ConfigError(
            f"{settings.path}: trainData is missing; expected a line trainData = FILE, or the file on the command line"
        )
    sets = []
    samples = (settings.train_samples, settings.test_samples)
    for file, name, count in zip(files, ("totRecords", "totRecordsTest"), samples, strict=True):
        sets.append(None if file is None else _cut(load(file, args), file, settings, name, count))
    return sets


def _cut(data, file, settings, name, samples):
    """The samples that the C++ program reads of a data set, with as many features and labels as it makes room for."""
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
        log.info("%s: of %s samples the first %s are used (%s, whole batches)", file, *counts, name)
        data = data.subset(slice(0, samples))
    elif samples is not None and samples > data.n_samples:
        counts = f"{data.n_samples:,}", f"{samples:,}"
        log.info("%s has %s samples, all of which are used, and not the %s of %s", file, *counts, name)
    if (data.n_features, data.n_labels) == (settings.n_features, settings.n_labels):
        return data
    shapes = (data.n_samples, settings.n_features), (data.n_samples, settings.n_labels)
    X, Y = (csr_matrix((m.data, m.indices, m.indptr), shape) for m, shape in zip((data.X, data.Y), shapes, strict=True))
    return Dataset(X, Y, name=data.name)
