"""The command line of ``slide hugepages`` and ``tools/hugepages.py``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
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
    """Execute the command line and return the exit status; that of ``run`` is the status of the command that it starts.

    Parameters
    ----------
    argv : list of str, optional
        Arguments. By default those of the process.
    prog : str
        Name of the command, for help and messages.
    """
    args = parser(prog).parse_args(argv)
    try:
        result, text, code = args.do(args)
        if args.plot is not None:
            plots.save(args.command, result, args.plot)
        print(json.dumps(result) if args.json else text, flush=True)
        return code
    except BrokenPipeError:
        # The reader has closed the pipe. Python flushes once more at exit, which must not fail.
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


def _status(args: argparse.Namespace) -> tuple[dict, str, int]:
    system = System(args.root)
    known = facts(system)
    result = {"facts": known, "verdict": verdict(known)}
    return result, show.status(result), 0


def _why_not() -> str | None:
    """Return why ``probe`` and ``bench`` cannot work here; None if they can."""
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}: only Linux tells which pages a buffer got"
    try:
        from slide.kernels import pagebench  # noqa: F401
    except ImportError as error:
        return f"the package's kernels are not built ({error}): python setup.py build_ext --inplace"
    return None


def _probe(args: argparse.Namespace) -> tuple[dict, str, int]:
    why = _why_not()
    if why is not None:
        return {"unavailable": why, "buffers": []}, f"not available here: {why}", 0
    result = probe(args.size * MIB)
    return result, show.probe(result), 0


def _bench(args: argparse.Namespace) -> tuple[dict, str, int]:
    why = _why_not()
    if why is not None:
        return {"unavailable": why, "results": []}, f"not available here: {why}", 0
    working_sets = [size * MIB for size in args.working_set]
    result = bench(row_bytes=args.row, working_sets=working_sets, rounds=args.rounds)
    return result, show.bench(result), 0


def _watch(args: argparse.Namespace) -> tuple[dict, str, int]:
    result = watch(args.pid, interval=args.interval, count=args.count, seen=_follower(args))
    return result, show.watched(result), 0


def _run(args: argparse.Namespace) -> tuple[dict, str, int]:
    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        raise ValueError("there is no command to start: hugepages run -- COMMAND")
    result = run(command, interval=args.interval)
    status = result["status"]
    return result, show.watched(result), status if status >= 0 else 128 - status


def _follower(args: argparse.Namespace) -> Callable[[dict], None] | None:
    """Return a function that prints each look at a process at once; None if only one result is wanted at the end."""
    return None if args.json else lambda sample: print(show.sample(sample), flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return value


def _row(text: str) -> int:
    value = _positive(text)
    if value % 4:
        raise argparse.ArgumentTypeError(f"expected a multiple of 4, got {text}")
    return value


def parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog=prog,
        description="Shows which memory pages a Linux system gives to programs that ask for large ones, which pages a "
        "process got, and how much faster they are. Needs no root; what cannot be known here is called unavailable, "
        "with the reason.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    status = _add(commands, "status", _status, "what the system gives, and what to change if it gives no hugepages")
    status.add_argument("--root", metavar="DIR", type=Path, default="/", help="read proc and sys in another folder")

    probing = _add(commands, "probe", _probe, "allocate buffers, touch them, and say how much of them is in hugepages")
    probing.add_argument(
        "--size", metavar="MIB", type=_positive, default=256, help="size of each buffer (default: 256)"
    )

    measuring = _add(commands, "bench", _bench, "compare random and sequential rows on 4 KiB and 2 MiB pages")
    sets = [size // MIB for size in WORKING_SETS]
    measuring.add_argument("--row", metavar="BYTES", type=_row, nargs="+", default=ROW_BYTES, help="sizes of rows")
    measuring.add_argument(
        "--working-set", metavar="MIB", type=_positive, nargs="+", default=sets, help="sizes of buffers"
    )
    measuring.add_argument(
        "--rounds", metavar="N", type=_positive, default=9, help="rounds to take medians of (default: 9)"
    )

    watching = _add(commands, "watch", _watch, "follow a process's hugepages and page faults")
    watching.add_argument("pid", metavar="PID", type=_positive)
    watching.add_argument(
        "--interval", metavar="S", type=_seconds, default=1.0, help="seconds between looks (default: 1)"
    )
    watching.add_argument(
        "--count", metavar="N", type=_positive, help="number of looks (default: until the process ends)"
    )

    running = _add(commands, "run", _run, "start a command and say which pages its memory was in")
    running.add_argument(
        "--interval", metavar="S", type=_seconds, default=0.5, help="seconds between looks (default: 0.5)"
    )
    running.add_argument("program", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="command and its arguments")
    return top


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    do: Callable[[argparse.Namespace], tuple[dict, str, int]],
    text: str,
) -> argparse.ArgumentParser:
    """Add a subcommand, with the options that all of them have."""
    command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the result (needs matplotlib)")
    command.set_defaults(do=do)
    return command
