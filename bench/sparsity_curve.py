"""How few of the outputs may a sample compute? P@1 against the share of active neurons, by how they are chosen.

    python bench/sparsity_curve.py TRAIN TEST [--shares 0.001 0.01] [--loss softmax bce] [--plot FILE.png] [--validate]

- ``lsh``: its labels, and what it finds in the hash tables, up to the share;
- ``uniform``: its labels, and draws from all labels that the batch shares;
- ``frequency``: the same by the labels' frequency;
- ``topk``: its labels, and the neurons of highest logit, searched exhaustively: what perfect tables would find;
- ``lsh+tail``: half of the share from the tables, and half from uniform draws.

Draws are corrected for (logQ), and labels of other samples are active for none. The share on the axis is what was
measured: labels come on top of draws, draws repeat, and tables may find fewer than asked. ``full`` is the reference.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from common import configuration, groups, options, parse, read, record, spread, table, train_and_measure

METHODS = ("lsh", "uniform", "frequency", "topk", "lsh+tail")
SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def main():
    args = parse_arguments()
    train, test = read(args)
    runs = []
    rates = args.lr * len(args.loss) if len(args.lr) == 1 else args.lr
    for loss, lr in zip(args.loss, rates, strict=True):
        run = configuration(args, lr=lr, max_batches=args.max_batches)
        base = replace(run.network.output, loss=loss, correction="logq", share_labels=False)
        samples = [] if args.skip_full else [("full", None, replace(base, candidates="full"))]
        for method in args.methods:
            for share in args.shares:
                count = round(share * train.n_labels)
                if count >= 2:
                    samples.append((method, share, output(base, method, count)))
        for method, share, layer in samples:
            for seed in range(args.seeds):
                network = replace(run.network, output=layer, seed=seed)
                figures = train_and_measure(args, network, run.training, train, test)
                figures["active_share"] = figures["active"] / train.n_labels
                record(args, runs, {"loss": loss, "method": method, "share": share, "seed": seed, **figures})
    if not args.json:
        print(markdown(runs))
    if args.plot is not None:
        plot(runs, args.plot, args.train.parent.name)


def parse_arguments():
    parser = options(__doc__)
    parser.add_argument("--loss", nargs="+", choices=("softmax", "bce"), default=["softmax"])
    parser.add_argument("--lr", nargs="+", type=float, default=[None], help="one for each --loss, or one for all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of the labels, from 0 to 1")
    parser.add_argument("--skip-full", action="store_true", help="leave the reference out")
    parser.add_argument("--max-batches", type=int)
    parser.add_argument("--plot", metavar="FILE", type=Path)
    args = parse(parser)
    if len(args.lr) not in (1, len(args.loss)):
        parser.error("--lr takes one learning rate, or one for each --loss")
    return args


def output(base, method, count):
    """Return the output layer in which a sample computes about so many neurons, chosen by a method."""
    if method in ("lsh", "topk"):
        return replace(base, candidates=method, budget=count)
    if method == "lsh+tail":
        return replace(base, candidates=method, budget=count // 2, tail=count - count // 2, tail_power=0.0)
    return replace(base, candidates="uniform", tail=count, tail_power=float(method == "frequency"))


def markdown(runs):
    header = ["loss", "method", "share asked for, %", "active neurons", "share, %", "P@1", "P@3", "P@5", "seconds"]
    rows = []
    for (loss, method, share), some in groups(runs, ("loss", "method", "share")).items():
        active = np.mean([run["active"] for run in some])
        measured = 100 * np.mean([run["active_share"] for run in some])
        quality = [spread([run[name] for run in some], scale=100) for name in ("P@1", "P@3", "P@5")]
        asked = "" if share is None else f"{100 * share:g}"
        seconds = spread([run["seconds"] for run in some], digits=1)
        rows.append([loss, method, asked, f"{active:,.1f}", f"{measured:.3g}", *quality, seconds])
    return table(header, rows, text=2)


def plot(runs, path, title):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_loss = groups(runs, ["loss"])
    figure, axes = pyplot.subplots(
        1, len(by_loss), figsize=(6 * len(by_loss), 4.5), sharey=True, layout="constrained", squeeze=False
    )
    for ax, ((loss,), some) in zip(axes[0], by_loss.items(), strict=True):
        for (method,), curve in groups(some, ["method"]).items():
            samples = groups(curve, ["share"]).values()
            quality = np.array([[100 * run["P@1"] for run in sample] for sample in samples])
            if method == "full":
                ax.axhline(quality.mean(), color="black", linestyle="--", label="full")
                continue
            active = [100 * np.mean([run["active_share"] for run in sample]) for sample in samples]
            deviation = quality.std(1, ddof=min(1, quality.shape[1] - 1))
            ax.errorbar(active, quality.mean(1), deviation, marker="o", capsize=2, label=method)
        ax.set(title=f"{title}, {loss}", xlabel="active output neurons, % of the labels", xscale="log")
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    axes[0, 0].set_ylabel("P@1, %")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
