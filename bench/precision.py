"""What fewer bytes for each parameter cost and gain: bfloat16 rows, and row-wise Adagrad in place of Adam.

    python bench/precision.py TRAIN TEST [--precisions fp32 bf16-moments bf16] [--optimizers adam adagrad]

Adagrad wants a learning rate of its own, ``--adagrad-lr``; Adam has the configuration's. Runs of one seed follow each
other, so that what disturbs the machine disturbs them alike. ``ms a batch`` is the median over the seeds.
"""

from dataclasses import replace
from itertools import product

import numpy as np
from common import configuration, groups, options, parse, read, record, spread, table, train_and_measure

from slide import Network
from slide.kernels.rows import PRECISIONS


def main():
    args = parse_arguments()
    train, test = read(args)
    run = configuration(args, max_batches=args.max_batches)
    batches = -(-train.n_samples // run.training.batch_size) * run.training.epochs
    batches = min(batches, run.training.max_batches or batches)
    runs = []
    for seed, name, precision in product(range(args.seeds), args.optimizers, args.precisions):
        lr = args.adagrad_lr if name == "adagrad" else run.network.optimizer.lr
        optimizer = replace(run.network.optimizer, name=name, lr=lr)
        network = replace(run.network, optimizer=optimizer, precision=precision, seed=seed)
        needs = Network.bytes_needed(train.n_features, train.n_labels, network)
        figures = train_and_measure(args, network, run.training, train, test)
        figures["ms"] = 1e3 * figures["seconds"] / batches
        figures["parameter_bytes"] = sum(size for part, size in needs.items() if part.endswith(" weights"))
        record(args, runs, {"optimizer": name, "precision": precision, "lr": lr, "seed": seed, **figures})
    if not args.json:
        print(markdown(runs))


def parse_arguments():
    parser = options(__doc__)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--optimizers", nargs="+", choices=("adam", "adagrad"), default=["adam", "adagrad"])
    parser.add_argument("--adagrad-lr", type=float, default=0.1)
    parser.add_argument("--max-batches", type=int)
    return parse(parser)


def markdown(runs):
    header = ["optimizer", "precision", "P@1", "P@5", "PSP@1", "ms a batch", "parameters, MB"]
    rows = []
    for names, some in groups(runs, header[:2]).items():
        quality = [spread([run[name] for run in some], scale=100) for name in ("P@1", "P@5", "PSP@1")]
        ms = np.median([run["ms"] for run in some])
        rows.append([*names, *quality, f"{ms:.2f}", f"{some[0]['parameter_bytes'] / 1e6:,.1f}"])
    return table(header, rows, text=2)


if __name__ == "__main__":
    main()
