"""What sampling every layer costs in accuracy: three hidden layers of 1,000 units, sampled and computed in full.

    python bench/accuracy_sampled_layers.py TRAIN TEST [--seeds 3] [--validate]

Both networks have the same optimizer, epochs and seeds; in the sampled one every sample computes `--budget` units of
each hidden layer and as many outputs, its labels among them. The defaults were chosen on a split of Delicious' training
data, as ``--validate`` makes it; TEST is then not read.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OptimizerConfig, OutputConfig, TrainingConfig
from slide.config import RehashConfig, SamplingConfig
from slide.data import load

KS = (1, 3, 5)
UNITS = 1000
LAYERS = 3
HELD_OUT = 0.2


def main():
    args = parse_arguments()
    train, test = load(args.train), None
    if args.validate:
        order = np.random.default_rng(7).permutation(train.n_samples)
        held_out = round(HELD_OUT * train.n_samples)
        train, test = train.subset(np.sort(order[held_out:])), train.subset(np.sort(order[:held_out]))
    else:
        test = load(args.test)
    runs = []
    for seed in range(args.seeds):
        for name in ("sampled", "dense"):
            network = Network(train.n_features, train.n_labels, configuration(args, name, seed), threads=args.threads)
            training = TrainingConfig(epochs=args.epochs, eval_points=0)
            history = network.fit(train.X, train.Y, config=training)
            quality = network.evaluate(test.X, test.Y, ks=KS)
            outputs = history.active_per_sample
            hidden = args.budget if name == "sampled" else UNITS
            runs.append(
                {"network": name, "seed": seed, "hidden": hidden, "outputs": outputs, **quality}
                | {"train_seconds": history.train_seconds}
            )
    if args.json:
        print(json.dumps({"runs": runs, "ratio": ratio(runs)}))
    else:
        print(markdown(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", type=Path)
    parser.add_argument("test", metavar="TEST", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--validate", action="store_true", help="measure on a fifth of TRAIN, and train on the rest")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--budget", type=int, default=400)
    parser.add_argument("--policy", default="topk")
    parser.add_argument("--family", default="dwta")
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--l", type=int, default=100)
    parser.add_argument("--period", type=int, default=50, help="batches until the first rebuild; the gaps grow")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    if args.test is None and not args.validate:
        parser.error("TEST is needed, or --validate")
    return args


def configuration(args, name, seed):
    sampled = name == "sampled"
    tables = {
        "budget": args.budget,
        "lsh": LSHConfig(family=args.family, k=args.k, l=args.l),
        "rehash": RehashConfig(period=args.period),
    }
    # A hidden layer that finds too few units computes random ones beside them; the output has the sample's labels.
    hidden = HiddenConfig(
        units=UNITS,
        candidates="lsh" if sampled else "full",
        sampling=SamplingConfig(policy=args.policy, fill="uniform"),
        dropout=0.0,
        **tables,
    )
    output = OutputConfig(
        candidates="lsh" if sampled else "full",
        correction="none",
        loss="softmax",
        sampling=SamplingConfig(policy=args.policy),
        **tables,
    )
    optimizer = OptimizerConfig(lr=args.lr, lazy="sparse")
    return NetworkConfig(hidden=(hidden,) * LAYERS, output=output, optimizer=optimizer, seed=seed)


def ratio(runs):
    """Mean metric of the sampled network over that of the dense one."""
    means = {
        name: np.mean([[run[f"P@{k}"] for k in KS] for run in runs if run["network"] == name], axis=0)
        for name in ("sampled", "dense")
    }
    return {f"P@{k}": float(share) for k, share in zip(KS, means["sampled"] / means["dense"], strict=True)}


def markdown(runs):
    lines = [
        "| network | seed | hidden units | outputs | P@1 | P@3 | P@5 | training, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        quality = " | ".join(f"{100 * run[f'P@{k}']:.2f}" for k in KS)
        counts = f"{LAYERS} x {run['hidden']:,} | {run['outputs']:,.0f}"
        lines.append(f"| {run['network']} | {run['seed']} | {counts} | {quality} | {run['train_seconds']:.0f} |")
    shares = " | ".join(f"{100 * share:.1f} %" for share in ratio(runs).values())
    lines.append(f"| sampled / dense | | | | {shares} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
