"""``python -m tools.fuzz``: fuzz what reads files.

::

    pip install atheris ziglang
    python -m tools.fuzz build --work DIR
    python -m tools.fuzz run xc --seconds 1800 --work DIR

DIR is outside of the repository: corpora, logs and findings go there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser("python -m tools.fuzz", description="Fuzz what reads files.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("build", "make the copy whose kernels report coverage"),
        ("run", "fuzz a target"),
        ("replay", "try inputs"),
        ("minimise", "shorten an input of a finding"),
        ("seeds", "write the seeds that targets make into the repository"),
        ("child", argparse.SUPPRESS),
    ):
        command = commands.add_parser(name, help=text)
        if name not in ("build", "seeds"):
            command.add_argument("target")
        if name in ("build", "run", "child"):
            command.add_argument("--work", type=Path, required=True, help="folder of the copy, corpora and logs")
        if name in ("run", "child"):
            command.add_argument("--seconds", type=int, default=1800, help="of a processor's time")
        if name in ("replay", "minimise"):
            command.add_argument("files", type=Path, nargs="+")
        if name == "child":
            command.add_argument("arguments", nargs="*")
    options, more = parser.parse_known_args(arguments)
    logging.getLogger("slide").setLevel(logging.CRITICAL)
    return globals()[f"_{options.command}"](options, more)


def _build(options, more):
    from .build import build

    build(options.work)
    return 0


def _run(options, more):
    from .engine import run

    print(run(options.target, options.seconds, options.work))
    return 0


def _child(options, more):
    from .engine import child

    child(options.target, options.seconds, options.work, [*options.arguments, *more])
    return 0


def _replay(options, more):
    from .registry import all_targets
    from .targets import Finding

    target, found = all_targets()[options.target], 0
    for file in (f for path in options.files for f in (sorted(path.iterdir()) if path.is_dir() else [path])):
        if file.suffix == ".txt":
            continue
        try:
            print(f"{file}: {'read' if target.examine(file.read_bytes()) else 'refused'}")
        except Finding as finding:
            found += 1
            print(f"{file}: {finding}")
    return 1 if found else 0


def _minimise(options, more):
    from .engine import minimise
    from .registry import all_targets

    for file in options.files:
        data = minimise(all_targets()[options.target], file.read_bytes())
        file.write_bytes(data)
        print(f"{file}: {len(data)} bytes")
    return 0


def _seeds(options, more):
    from .registry import all_targets
    from .targets import SEEDS

    for name, target in all_targets().items():
        folder = SEEDS / "seeds" / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, data in target.seeds().items():
            (folder / seed).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
