"""Which neurons a training sample should compute: every mode of `OutputConfig`, with and without correction, by budget.

    python bench/candidates.py TRAIN TEST [--loss softmax bce] [--budgets 64 256 1024] [--tails 1024] [--validate]

A mode is run with every budget if it looks neurons up, with every tail if it draws some, and with both corrections if
samples share neurons that stand for others. All else is the configuration's, the same for all. Which learning rate is
good depends on the loss more than on the mode: ``--lr`` takes one for each ``--loss``, or one for all.
"""

from dataclasses import replace
from itertools import product

from common import configuration, groups, options, parse, read, record, spread, table, train_and_measure

from slide.config import CANDIDATES

FIELDS = ("loss", "candidates", "correction", "budget", "tail")


def main():
    args = parse_arguments()
    train, test = read(args)
    runs = []
    rates = args.lr * len(args.loss) if len(args.lr) == 1 else args.lr
    for loss, lr in zip(args.loss, rates, strict=True):
        run = configuration(args, lr=lr, max_batches=args.max_batches)
        for output in settings(args, replace(run.network.output, loss=loss)):
            for seed in range(args.seeds):
                network = replace(run.network, output=output, seed=seed)
                figures = train_and_measure(args, network, run.training, train, test)
                record(args, runs, {**named(output), "lr": network.optimizer.lr, "seed": seed, **figures})
    if not args.json:
        print(markdown(runs))


def parse_arguments():
    parser = options(__doc__)
    parser.add_argument("--loss", nargs="+", choices=("softmax", "bce"), default=["softmax"])
    parser.add_argument("--lr", nargs="+", type=float, default=[None])
    modes = [mode for mode in CANDIDATES if not mode.startswith("topk")]
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=modes, help="by default all but topk")
    parser.add_argument("--corrections", nargs="+", choices=("logq", "none"), default=["logq", "none"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--tails", nargs="+", type=int, default=[1024])
    parser.add_argument("--max-batches", type=int)
    args = parse(parser)
    if len(args.lr) not in (1, len(args.loss)):
        parser.error("--lr takes one learning rate, or one for each --loss")
    return args


def settings(args, output):
    """Yield the output layers to compare: only what makes a difference is varied."""
    for mode in args.candidates:
        base = replace(output, candidates=mode, share_labels=output.share_labels or mode.endswith("inbatch"))
        corrections = args.corrections if base.uses_shared else ["none"]
        budgets = args.budgets if base.uses_tables or base.uses_search else [base.budget]
        tails = args.tails if base.uses_tail else [base.tail]
        for correction, budget, tail in product(corrections, budgets, tails):
            yield replace(base, correction=correction, budget=budget, tail=tail)


def named(output):
    """Return the fields that are varied; those that make no difference are None."""
    looks_up = output.uses_tables or output.uses_search
    return {
        "loss": output.loss,
        "candidates": output.candidates,
        "correction": output.correction if output.uses_shared else None,
        "budget": output.budget if looks_up else None,
        "tail": output.tail if output.uses_tail else None,
    }


def markdown(runs):
    header = [*FIELDS, "P@1", "PSP@1", "seconds", "active neurons"]
    rows = []
    for names, some in groups(runs, FIELDS).items():
        quality = [spread([run[name] for run in some], scale=100) for name in ("P@1", "PSP@1")]
        seconds = spread([run["seconds"] for run in some], digits=1)
        active = spread([run["active"] for run in some], digits=0)
        rows.append(["" if name is None else name for name in names] + [*quality, seconds, active])
    return table(header, rows, text=3)


if __name__ == "__main__":
    main()
