"""How far do a language model and a recommender in PyTorch get in the same time, by their output layer?

    python bench/torch_quality.py [--seconds 60] [--seeds 1] [--text FILE] [--sessions FILE]

Runs `examples/torch/gru_language_model.py`, 200,000 words, and `sequential_recommender.py`, 300,000 items, with every
head: slide's sampled softmax, a sampled softmax in plain PyTorch and the full softmax. All train for as many seconds,
one after the other, in another order for every seed; what is made up, or set aside, depends on the seed alone. Quality
is exact: every output computed. As set: 8 minutes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import groups, spread, table
from torch_layer import KEEP_MEMORY

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "torch"
HEADS = ("sampled", "plain", "full")
QUALITY = {"gru_language_model": "perplexity", "sequential_recommender": "HR@10"}


def main():
    args = parse_arguments()
    runs = []
    for seed in range(args.seeds):
        shift = seed % len(args.heads)
        for example in args.examples:
            for head in args.heads[shift:] + args.heads[:shift]:
                run = {"example": example, "seed": seed} | train(example, head, seed, args)
                runs.append(run)
                shown = f"{QUALITY[example]} {run[QUALITY[example]]:,.4g}"
                print(f"{example}, {head}: {run['steps']:,} steps, {shown}", file=sys.stderr, flush=True)
                if args.json:
                    print(json.dumps(run), flush=True)
    if not args.json:
        print(markdown(runs))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", choices=QUALITY, default=list(QUALITY), metavar="EXAMPLE")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), metavar="HEAD")
    parser.add_argument("--seconds", type=float, default=60, help="each trains (default: 60)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", metavar="FILE", help="for the language model, in place of what it makes up")
    parser.add_argument("--sessions", metavar="FILE", help="for the recommender, in place of what it makes up")
    parser.add_argument("--options", nargs="+", default=[], metavar="OPTION", help="of both, without dashes: lr=0.01")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every run, as soon as it is there")
    return parser.parse_args()


def train(example, head, seed, args):
    """Return what the example says of itself."""
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), "--json", "--head", head, "--seed", str(seed)]
    command += ["--seconds", str(args.seconds), "--threads", str(args.threads)]
    command += [f"--{option}" for option in args.options]
    if example == "gru_language_model" and args.text:
        command += ["--text", args.text]
    if example == "sequential_recommender" and args.sessions:
        command += ["--sessions", args.sessions]
    # The same for all, though it is the full softmax that needs it.
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | KEEP_MEMORY)
    return json.loads(run.stdout.splitlines()[-1])


def markdown(runs):
    header = ["example", "head", "steps", "seconds", "perplexity", "HR@10, %"]
    rows = []
    for (example, head), some in groups(runs, ["example", "head"]).items():
        row = [example, head, *(spread([run[name] for run in some], digits=0) for name in ("steps", "seconds"))]
        for name, scale in (("perplexity", 1), ("HR@10", 100)):
            row.append(spread([run[name] for run in some], scale=scale, digits=1) if name in some[0] else "")
        rows.append(row)
    lines = [table(header, rows, text=2)]
    yardsticks = [run for run in runs if "unigram_perplexity" in run]
    if yardsticks:
        unigram = spread([run["unigram_perplexity"] for run in yardsticks], digits=0)
        lines.append(f"\nPerplexity of the words' frequencies alone: {unigram}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
