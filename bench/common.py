"""What the measurements share: their options, their data, and how figures are shown."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from slide import Network, RunConfig, metrics
from slide.data import load
from slide.files import tables

KS = (1, 3, 5)
HELD_OUT = 0.1
SPLIT_SEED = 7


def options(doc, *, seeds=3):
    """Return a parser with the options that every measurement has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path)
    parser.add_argument("test", metavar="TEST", type=Path, nargs="?")
    parser.add_argument("--config", metavar="FILE.toml", type=Path, help="of a slide.RunConfig; by default slide's own")
    parser.add_argument("--epochs", type=int, help="in place of the configuration's")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs, with the seeds 0, 1, ...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--validate", action="store_true", help="measure on a tenth of TRAIN, and train on the rest")
    parser.add_argument("--limit", metavar="N", type=int, help="train on N samples, drawn at random")
    parser.add_argument("--points", metavar="N", type=int, help="measure on N samples, drawn at random")
    parser.add_argument("--mask-inputs", action="store_true", help="never predict a label that is one of the features")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every run, as soon as it is there")
    return parser


def parse(parser, arguments=None):
    args = parser.parse_args(arguments)
    if args.test is None and not args.validate:
        parser.error("TEST is needed, or --validate")
    return args


def read(args):
    """Return what to train and what to measure on. With ``--validate`` TEST is not read."""
    train = load(args.train)
    if args.validate:
        train, test = split(train)
    else:
        test = load(args.test)
    return draw(train, args.limit), draw(test, args.points)


def split(data):
    """Return nine tenths of the samples and the other tenth, always the same."""
    order = np.random.default_rng(SPLIT_SEED).permutation(data.n_samples)
    held_out = round(HELD_OUT * data.n_samples)
    return data.subset(np.sort(order[held_out:])), data.subset(np.sort(order[:held_out]))


def draw(data, n):
    """Return n of the samples, always the same, or all."""
    if n is None or n >= data.n_samples:
        return data
    return data.subset(np.sort(np.random.default_rng(SPLIT_SEED).permutation(data.n_samples)[:n]))


def configuration(args, *, lr=None, max_batches=None):
    """Return the RunConfig that ``--config`` names, changed as the other options say."""
    config = RunConfig() if args.config is None else RunConfig.from_toml(args.config)
    training = {"epochs": args.epochs, "max_batches": max_batches}
    training = {name: value for name, value in training.items() if value is not None}
    network = config.network
    if lr is not None:
        network = replace(network, optimizer=replace(network.optimizer, lr=lr))
    return RunConfig(network, replace(config.training, **training))


def train_and_measure(args, network_config, training_config, train, test):
    """Return the figures of one run: quality, seconds of training, active output neurons."""
    network = Network(train.n_features, train.n_labels, network_config, threads=args.threads)
    history = network.fit(train.X, train.Y, config=training_config)
    inverse = metrics.propensities(train.Y)
    quality = network.evaluate(test.X, test.Y, ks=KS, inv_propensity=inverse, mask_inputs=args.mask_inputs)
    return {
        **{name: quality[name] for kind in ("P", "PSP") for name in (f"{kind}@{k}" for k in KS)},
        "seconds": history.train_seconds,
        "rehash_share": history.rehash_share,
        "active": history.active_per_sample,
    }


def record(args, runs, run):
    """Keep a run's figures, and show them at once."""
    runs.append(run)
    if args.json:
        print(json.dumps(run), flush=True)
    else:
        shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in run.items()}
        line = ", ".join(f"{name} {value}" for name, value in shown.items() if not isinstance(value, (dict, list)))
        print(line, file=sys.stderr, flush=True)


def spread(values, *, scale=1.0, digits=2):
    """Return the mean as text and, of several values, their standard deviation."""
    values = scale * np.asarray(values, float)
    mean = f"{values.mean():,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):,.{digits}f}"


def groups(runs, names):
    """Return the runs by their values of the named fields, in the order in which these first appear."""
    found = {}
    for run in runs:
        found.setdefault(tuple(run[name] for name in names), []).append(run)
    return found


def table(header, rows, *, text=1):
    """Return a markdown table whose first columns, so many, are text."""
    align = "l" * text + "r" * (len(header) - text)
    return tables.table(header, rows, align=align, markdown=True, pad=False)
