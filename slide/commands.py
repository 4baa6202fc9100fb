"""What the ``slide`` command does: from parsed arguments to an exit status.

Each command is a function of what `slide.cli` has parsed. It raises for `slide.cli` to report.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import operator
import os
import resource
import signal
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import tomli_w
from scipy.sparse import csr_matrix, random_array

from slide import checkpoint, metrics, tuning
from slide.config import RunConfig
from slide.console import TrainingDisplay, as_json, log, quality_table
from slide.data import DataError, load, make_extreme
from slide.data.readers import detect_format
from slide.footprint import BatchShape, arithmetic, check_fit, resident
from slide.info import config_facts, show_config
from slide.layers import InputLayer
from slide.mixture import Mixture
from slide.neighbours import Neighbours
from slide.network import Network
from slide.settings import from_dict, to_dict
from slide.training import Progress, known_propensities

KS = (1, 3, 5)
"""Depths at which training reports quality."""

HOLDOUT = 0.1
"""Share of the training points that is held out where quality decides something and nothing else is said."""

PREDICT_BLOCK = 4096
"""Points predicted and written at a time."""

SHARE, K_NEIGHBOURS = 0.5, 50
"""Of a mixture with neighbours: their share, and how many vote."""

FITTED = 4096
"""Points that a sketch is fitted to."""

PROFILED = 200
"""Points that are predicted one by one where that is to be timed."""

QUERIES = 256
"""Points on which hash tables are measured."""

RANDOM_FEATURES = 32
"""Features of a random point."""

SYNTHETIC = {
    "n_points": 100_000,
    "n_features": 50_000,
    "n_labels": 100_000,
    "noise": 0.5,
    "test_points": 5_000,
}
"""Data to train on where none is given: about a minute on two cores."""

ZERO_BASED = {"auto": "auto", "yes": True, "no": False}

SETTINGS = {
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "max_batches": "training.max_batches",
    "schedule": "training.schedule",
    "warmup": "training.warmup",
    "patience": "training.patience",
    "holdout": "training.holdout",
    "lr": "network.optimizer.lr",
    "hidden": "network.hidden",
    "candidates": "network.output.candidates",
    "budget": "network.output.budget",
    "update": "network.update",
    "precision": "network.precision",
    "seed": "network.seed",
}
"""Where the options of ``slide train`` go in the configuration."""


def train(args: argparse.Namespace) -> int:
    """Train a network, save it and measure its quality; return 128 + n if signal n ended the training.

    The test set decides nothing: where quality does, it is measured on training points that are held out.
    """
    config = _run_config(args)
    if config.training.needs_validation and not config.training.holdout:
        config = replace(config, training=replace(config.training, holdout=HOLDOUT))
        log.info(
            "no holdout given: %s of the training points, at most %s, are set aside to follow quality on",
            f"{HOLDOUT:.0%}",
            f"{config.training.eval_points:,}",
        )
    _check_destination(args.out)
    data, test = _training_data(args)
    _check_memory(data, config)
    network = Network(data.n_features, data.n_labels, config.network, threads=args.threads)
    log.info("training on %r, threads: %d", data, network.threads)

    measured_on = "validation" if config.training.holdout else "test"
    with _StopSignals() as stop, TrainingDisplay(measured_on, config.training.monitor) as display:

        def on_batch(progress: Progress) -> bool:
            display.batch_done(progress)
            return stop.signum is not None

        def on_epoch(progress: Progress) -> bool:
            display.epoch_done(progress)
            return stop.signum is not None

        history = network.fit(
            data.X,
            data.Y,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            on_batch=on_batch,
            on_epoch=on_epoch,
        )
    if stop.signum is not None:
        name = signal.Signals(stop.signum).name
        log.warning("stopped by %s after %s batches; saving what was learnt", name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", _course(history, config.training))
    network.save(args.out)
    log.info("saved %r in %s", network, args.out)

    quality, popular = {}, None
    if test is not None and stop.signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = known_propensities(data.Y)
        quality = network.evaluate(
            test.X, test.Y, ks=KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )
        if not args.mask_inputs:
            popular = _popular_baseline(data, test)
    if args.json:
        print(as_json(_training_report(network, history, display.progress, quality, popular, args.out)))
    else:
        rehashing = f", {history.rehash_share:.0%} of it rehashing" if history.rehash_seconds else ""
        print(
            f"{history.batches:,} batches in {history.train_seconds:.1f} s, "
            f"{history.ms_per_batch:.2f} ms each{rehashing}; "
            f"{history.active_per_sample:,.0f} of {network.n_labels:,} outputs active for a sample"
        )
        if quality:
            print(quality_table(quality, KS, popular))
    return 0 if stop.signum is None else 128 + stop.signum


def evaluate(args: argparse.Namespace) -> int:
    """Measure a saved network's quality."""
    network = Network.load(args.model, threads=args.threads)
    test = _load_as(args.test, args, network.n_features, network.n_labels, "the model")
    inv_propensity = None
    if args.train is not None:
        train = _load_as(args.train, args, network.n_features, network.n_labels, "the model")
        inv_propensity = known_propensities(train.Y)
    predictor = _predictor(network, args)
    start = time.perf_counter()
    quality = predictor.evaluate(
        test.X, test.Y, ks=args.k, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
    )
    seconds = time.perf_counter() - start
    if args.json:
        about = {
            "points": test.n_points,
            "seconds": seconds,
            "threads": network.threads,
            "model": str(args.model),
        }
        if isinstance(predictor, Mixture):
            about["neighbours"] = str(args.neighbours)
            about["share"], about["k_neighbours"] = predictor.share, predictor.neighbours.k
        print(as_json({**quality, **about}))
    else:
        print(quality_table(quality, args.k))
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the best labels of every point."""
    network = Network.load(args.model, threads=args.threads)
    data = _load_as(args.input, args, network.n_features, None, "the model")
    predictor = _predictor(network, args)
    how = {}
    if args.mode != "exact" and data.n_points:
        start = time.perf_counter()
        index = network.build_search_index(args.mode, _some(data.X, FITTED, network))
        log.info("built the %s index: %.1f s, %s bytes", args.mode, time.perf_counter() - start, f"{index.nbytes:,}")
        how = {"mode": args.mode, "candidates": args.candidates}
    if args.profile:
        _profile(predictor, _some(data.X, PROFILED, network), args, how)
    write = _write_tsv if args.output_format == "tsv" else _write_jsonl
    with _output(args.output) as file:
        for first in range(0, data.n_points, PREDICT_BLOCK):
            X = data.X[first : first + PREDICT_BLOCK]
            ids, scores = predictor.predict(X, args.k, exclude=X if args.mask_inputs else None, **how)
            for labels, values in zip(ids.tolist(), scores.tolist(), strict=True):
                # Where fewer than k labels may be predicted the rest is -1.
                found = [(label, value) for label, value in zip(labels, values, strict=True) if label >= 0]
                write(file, found)
    return 0


def _some(X, n, network):
    """At most n of some points, drawn at random but always the same."""
    return X[np.sort(np.random.default_rng(network.config.seed).permutation(X.shape[0])[:n])]


def _profile(predictor, X, args, how):
    """Report how long points take that are predicted one by one."""
    milliseconds = []
    for i in range(X.shape[0]):
        start = time.perf_counter()
        predictor.predict(X[i], args.k, exclude=X[i] if args.mask_inputs else None, **how)
        milliseconds.append(1000 * (time.perf_counter() - start))
    if milliseconds:
        p50, p99 = np.percentile(milliseconds, (50, 99))
        log.info("%s points one by one: p50 %.2f ms, p99 %.2f ms each", f"{len(milliseconds):,}", p50, p99)


def info(args: argparse.Namespace) -> int:
    """Describe a saved network or, without one, this installation."""
    if args.model is None:
        if args.json:
            print(as_json(config_facts()))
        else:
            show_config()
        return 0
    if args.index:
        return _info_index(args)
    about = checkpoint.describe(args.model)
    try:
        units = [layer["units"] for layer in about["config"]["hidden"]]
        widths = [about["n_features"], *units, about["n_labels"]]
        about["parameters"] = _parameters(widths)
        about["bytes"] = sum(file.stat().st_size for file in args.model.iterdir())
        sections = {
            f"Network in {args.model}": {
                "features": about["n_features"],
                "hidden units": " + ".join(map(str, units)),
                "labels": about["n_labels"],
                "parameters": about["parameters"],
                "bytes on disk": about["bytes"],
                "batches": about["step"],
                "optimiser state": about["moments"],
                "saved by slide": about["slide"],
            },
            "Hash tables when it was saved": about["index"] or {},
        }
        settings = tomli_w.dumps(about["config"])
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{args.model / checkpoint.MANIFEST} lacks {error}") from None
    if args.json:
        print(as_json(about))
        return 0
    for heading, facts in sections.items():
        if facts:
            print(heading)
            for name, value in facts.items():
                print(f"  {name + ':':20}{_plain(value)}")
    print(f"Settings\n{textwrap.indent(settings, '  ')}", end="")
    return 0


def _info_index(args):
    """Describe the hash tables of a saved network's layers."""
    network = Network.load(args.model, threads=args.threads)
    X, source = _queries(network, args)
    reports = {}
    for (name, layer), queries in zip(_layers(network).items(), network.layer_inputs(X), strict=True):
        layer.make_index()
        if layer.index is not None:
            layer.index.rebuild(network.step, network.threads)
            reports[name] = layer.index.diagnose(
                queries, budget=layer.config.budget, top=args.top, num_threads=network.threads
            )
    if args.json:
        print(as_json({"queries": source, "layers": {name: report.to_dict() for name, report in reports.items()}}))
        return 0
    if not reports:
        print(
            "No layer of this network has hash tables: its candidates are not looked up. "
            f"slide tune {args.model} DATA measures what tables would find."
        )
        return 0
    print(f"Queries: {source}")
    for name, report in reports.items():
        print(f"Hash tables of layer {name}\n{textwrap.indent(str(report), '  ')}")
    return 0


def tune(args: argparse.Namespace) -> int:
    """Search for a saved network's best hash tables; print what was found and how to configure it."""
    network = Network.load(args.model, threads=args.threads)
    layers = _layers(network)
    if args.layer not in layers:
        raise ValueError(f"the network has the layers {', '.join(layers)}; there is none named {args.layer!r}")
    layer = layers[args.layer]
    if isinstance(layer, InputLayer):
        raise ValueError(f"layer {args.layer} computes every unit from its features' rows: it has no use for tables")
    X, source = _queries(network, args)
    log.info("tuning layer %s on %s for at most %g s", args.layer, source, args.time)
    result = tuning.tune(
        layer,
        network.layer_inputs(X)[list(layers).index(args.layer)],
        top=args.top,
        recall_target=args.recall,
        time_limit=args.time,
        num_threads=network.threads,
    )
    settings = {"candidates": _with_tables(layer.config.candidates, args.layer), **result.settings()}
    section = tomli_w.dumps({"network": _tuned(network.config, args.layer, settings)})
    if args.toml is not None:
        args.toml.write_text(section, encoding="utf-8")
    if args.json:
        print(as_json({"layer": args.layer, **result.to_dict(), "settings": settings}))
    elif args.toml is None:
        print(f"{result}\n\n{section}", end="")
    else:
        print(result)
    return 0


def _predictor(network, args):
    """The network, mixed with the neighbours that the options ask for."""
    if args.neighbours is None:
        return network
    train = _load_as(args.neighbours, args, network.n_features, network.n_labels, "the model")
    neighbours = Neighbours(
        train.X,
        train.Y,
        k=args.k_neighbours or K_NEIGHBOURS,
        feature_weights=network.feature_weights,
        threads=args.threads,
    )
    return Mixture(network, neighbours, SHARE if args.share is None else args.share)


def _layers(network):
    """All layers by name, from the features upward."""
    return {**{layer.name: layer for layer in network.hidden}, "output": network.output}


def _tuned(config, name, settings):
    """The part of the network's configuration that has a layer's new settings: of hidden layers, all of them."""
    if name == "output":
        return {"output": settings}
    hidden = [to_dict(layer) for layer in config.hidden]
    hidden[int(name.removeprefix("hidden."))].update(settings)
    return {"hidden": hidden}


def _with_tables(candidates, name):
    """The mode that looks a layer's neurons up in hash tables and is otherwise most like this one."""
    if candidates.startswith("lsh"):
        return candidates
    if name != "output" or candidates == "topk":
        return "lsh"
    return "lsh+inbatch" if candidates == "inbatch" else "lsh+tail"


def _queries(network, args):
    """Points that look neurons up, and a description of them."""
    rng = np.random.default_rng(network.config.seed)
    if args.data is None:
        shape = (QUERIES, network.n_features)
        # A point has RANDOM_FEATURES of them, on average.
        X = random_array(shape, density=min(1.0, RANDOM_FEATURES / shape[1]), rng=rng, format="csr", dtype=np.float32)
        return csr_matrix(X), f"{QUERIES} random points, which need not resemble real ones; --data FILE takes those"
    data = _load_as(args.data, args, network.n_features, None, "the model")
    if not data.n_points:
        raise DataError(f"{args.data} has no points")
    rows = np.sort(rng.permutation(data.n_points)[:QUERIES])
    return data.X[rows], f"{len(rows)} points of {args.data}"


def _parameters(widths):
    """Weights and biases of layers between these widths."""
    return sum((below + 1) * above for below, above in itertools.pairwise(widths))


def _plain(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# What the commands need


def _run_config(args):
    """The defaults, changed by the configuration file, changed by the options."""
    config = RunConfig() if args.config is None else RunConfig.from_toml(args.config)
    values = to_dict(config)
    for option, path in SETTINGS.items():
        value = getattr(args, option)
        if value is not None:
            section, name = find_setting(values, path)
            section[name] = _with_units(section[name], value) if option == "hidden" else value
    return from_dict(RunConfig, values)


def _with_units(layers, units):
    """The hidden layers with these numbers of units; default ones if there are not as many layers as numbers."""
    if len(layers) != len(units):
        layers = [{}] * len(units)
    return [{**layer, "units": n} for layer, n in zip(layers, units, strict=True)]


def find_setting(values: dict, path: str) -> tuple[dict, str]:
    """Return the dictionary that holds a setting, and the setting's name."""
    *sections, name = path.split(".")
    return functools.reduce(operator.getitem, sections, values), name


def _check_destination(path):
    """Refuse, before hours of training, a place where the network could not be saved."""
    if path.exists() and not (path / checkpoint.MANIFEST).is_file():
        raise FileExistsError(f"{path} exists and is not a saved network; choose another name or remove it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} is not a folder that can be written to; {path} could not be saved there"
        )


def _training_data(args):
    """The training set and, where there is one, the test set."""
    if args.train is None:
        train, test = make_extreme(**SYNTHETIC)
        log.info("no training file given: training on synthetic data (slide.data.make_extreme)")
        return train, test
    train = _load(args.train, args)
    test = None
    if args.test is not None:
        test = _load_as(args.test, args, train.n_features, train.n_labels, "the training data")
    return train, test


def _load(path, args, **options):
    log.info("reading %s", path)
    options = {"format": args.format, **options}
    return load(path, zero_based=ZERO_BASED[args.zero_based], cache=not args.no_cache, **options)


def _load_as(path, args, n_features, n_labels, model):
    """Load data for something of that many features and, unless that is None, labels."""
    stated = args.format if args.format != "auto" else detect_format(path)
    # svmlight does not state its sizes; its largest ids may be smaller.
    sizes = {"n_features": n_features, "n_labels": n_labels} if stated == "svmlight" else {}
    data = _load(path, args, format=stated, **sizes)
    for what, found, expected in (
        ("features", data.n_features, n_features),
        ("labels", data.n_labels, n_labels),
    ):
        if expected is not None and found != expected:
            raise DataError(f"{path} has {found:,} {what}, {model} {expected:,}: they do not belong together")
    return data


def _check_memory(data, config):
    """Refuse a network that is clearly larger than the memory this machine has left."""
    batch = BatchShape.of(data.X, data.Y, config.training.batch_size)
    needs = Network.bytes_needed(data.n_features, data.n_labels, config.network, batch=batch)
    if config.training.keeps_best:
        units = [layer.units for layer in config.network.hidden]
        needs["copy of the best weights"] = 4 * _parameters([data.n_features, *units, data.n_labels])
    log.info("the network takes %s", arithmetic(needs, resident(needs, config.network.hugepages)))
    check_fit(needs, config.network.hugepages)


def _course(history, training):
    """What was best, whose weights the network has, and whether the run ended before its time."""
    quality = f"{training.monitor} {history.best_quality[training.monitor]:.1%} in validation"
    kept = "; its weights are kept" if training.keeps_best else ""
    ended = "; stopped, out of patience" if history.out_of_patience else ""
    return f"best epoch: {history.best_epoch} of {len(history.epochs)}, {quality}{kept}{ended}"


def _popular_baseline(train, test):
    """The quality of always predicting the labels most frequent in training."""
    counts = np.bincount(train.Y.indices, minlength=max(train.n_labels, max(KS)))
    popular = np.argsort(-counts, kind="stable")[: max(KS)]
    popular[popular >= train.n_labels] = -1
    return metrics.evaluate_topk(np.tile(popular, (test.n_points, 1)), test.Y, KS)


def _training_report(network, history, progress, quality, popular, path):
    """What ``slide train --json`` prints."""
    # ru_maxrss counts KiB, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        **{f"P@{k}": None for k in KS},
        **quality,
        "popular": popular,
        "train_seconds": history.train_seconds,
        "ms_per_batch": history.ms_per_batch,
        "rehash_share": history.rehash_share,
        "samples_per_second": progress.samples / history.train_seconds,
        "active_per_sample": history.active_per_sample,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "batches": history.batches,
        "epochs": len(history.epochs),
        "loss": history.epochs[-1].loss,
        "stopped": history.stopped,
        "out_of_patience": history.out_of_patience,
        "best_epoch": history.best_epoch,
        "best_quality": history.best_quality,
        "threads": network.threads,
        "seed": network.config.seed,
        "model": str(path),
    }


class _StopSignals:
    """While in use, the first SIGINT or SIGTERM is only noted, in `signum`; the next acts as ever."""

    def __init__(self):
        self.signum = None
        self._former = {}

    def __enter__(self):
        # Python allows handlers in the main thread only; elsewhere signals are someone else's.
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception):
        self._restore()

    def _note(self, signum, frame):
        self.signum = signum
        self._restore()

    def _restore(self):
        while self._former:
            signal.signal(*self._former.popitem())


@contextmanager
def _output(path):
    """Standard output for "-", else a file."""
    if path == "-":
        yield sys.stdout
    else:
        with open(path, "w", encoding="ascii") as file:
            yield file


def _write_tsv(file, found):
    print("\t".join(f"{label}:{score:.6g}" for label, score in found), file=file)


def _write_jsonl(file, found):
    point = {"labels": [label for label, _ in found], "scores": [float(f"{score:.6g}") for _, score in found]}
    print(json.dumps(point), file=file)
