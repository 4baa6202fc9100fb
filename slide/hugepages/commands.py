"""The command line of ``slide hugepages`` and ``tools/hugepages.py``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from slide.hugepages import plots, show
from slide.hugepages.bench import ROW_BYTES, WORKING_SETS, bench
from slide.hugepages.facts import facts
from slide.hugepages.probe import probe
from slide.hugepages.verdict import verdict
from slide.hugepages.watch import run, watch
from slide.system.proc import System

MIB = 1 << 20


def main(argv: list[str] | None = None, prog: str = "hugepages") -> int:
    """Run the command line and return the exit status; that of ``run`` is its command's.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; by default those of the process.
    prog : str
        What the command is called.
    """
    args = parser(prog).parse_args(argv)
    try:
        result, text, code = args.do(args)
        if args.plot is not None:
            plots.save(args.command, result, args.plot)
        print(json.dumps(result) if args.json else text, flush=True)
        return code
    except BrokenPipeError:
        # The reader has had what it wanted. Python flushes once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        print(f"{prog}: error: this needs {error.name}: pip install {error.name}", file=sys.stderr)
        return 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1


def _status(args):
    system = System(args.root)
    known = facts(system)
    result = {"facts": known, "verdict": verdict(known)}
    return result, show.status(result), 0


def _why_not():
    """Why what allocates cannot run here; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}: only Linux tells what pages a buffer got"
    try:
        from slide.kernels import pagebench  # noqa: F401
    except ImportError as error:
        return f"the package's kernels are not built ({error}): python setup.py build_ext --inplace"
    return None


def _probe(args):
    why = _why_not()
    if why is not None:
        return {"unavailable": why, "buffers": []}, f"not available here: {why}", 0
    result = probe(args.size * MIB)
    return result, show.probe(result), 0


def _bench(args):
    why = _why_not()
    if why is not None:
        return {"unavailable": why, "results": []}, f"not available here: {why}", 0
    working_sets = [size * MIB for size in args.working_set]
    result = bench(row_bytes=args.row, working_sets=working_sets, rounds=args.rounds)
    return result, show.bench(result), 0


def _watch(args):
    result = watch(args.pid, interval=args.interval, count=args.count, seen=_follower(args))
    return result, show.watched(result), 0


def _run(args):
    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        raise ValueError("there is no command to run: hugepages run -- COMMAND")
    result = run(command, interval=args.interval)
    status = result["status"]
    return result, show.watched(result), status if status >= 0 else 128 - status


def _follower(args):
    """What shows each look at a process at once, None where one result is wanted at the end."""
    return None if args.json else lambda sample: print(show.sample(sample), flush=True)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return value


def _row(text):
    value = _positive(text)
    if value % 4:
        raise argparse.ArgumentTypeError(f"expected a multiple of 4, got {text}")
    return value


def parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Parameters
    ----------
    prog : str
    """
    top = argparse.ArgumentParser(
        prog=prog,
        description="Says what memory pages a Linux system gives to programs that want large ones, what a process got, "
        "and what it is worth. Needs no root; what cannot be known here is said to be unavailable, with the reason.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add = lambda name, do, text: _add(commands, name, do, text)  # noqa: E731

    status = add("status", _status, "what the system gives, and what to change where that is nothing")
    status.add_argument("--root", metavar="DIR", type=Path, default="/", help="read proc and sys of another tree")

    probing = add("probe", _probe, "allocate buffers, touch them, and say how much became huge")
    probing.add_argument("--size", metavar="MIB", type=_positive, default=256, help="of each buffer (default: 256)")

    measuring = add("bench", _bench, "random and sequential rows on 4 KiB against 2 MiB pages")
    sets = [size // MIB for size in WORKING_SETS]
    measuring.add_argument("--row", metavar="BYTES", type=_row, nargs="+", default=ROW_BYTES, help="sizes of rows")
    measuring.add_argument("--working-set", metavar="MIB", type=_positive, nargs="+", default=sets, help="of buffers")
    measuring.add_argument("--rounds", metavar="N", type=_positive, default=9, help="to take medians of (default: 9)")

    watching = add("watch", _watch, "follow a process's hugepages and page faults")
    watching.add_argument("pid", metavar="PID", type=_positive)
    watching.add_argument("--interval", metavar="S", type=_seconds, default=1.0, help="between looks (default: 1)")
    watching.add_argument("--count", metavar="N", type=_positive, help="looks (default: until the process ends)")

    running = add("run", _run, "run a command and say what its memory was in")
    running.add_argument("--interval", metavar="S", type=_seconds, default=0.5, help="between looks (default: 0.5)")
    running.add_argument("program", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="and its arguments")
    return top


def _add(commands, name, do, text):
    command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the result (needs matplotlib)")
    command.set_defaults(do=do)
    return command
