"""The ``slide`` command: its arguments, its errors and its exit status.

Results go to standard output, everything else to standard error. The exit status is 0, or 1 after an error, 2 after a
wrong command line, and 128 + n after signal n.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from slide.commands import compare, convert, evaluate, export, import_reference, info, plot, predict, train, tune
from slide.commands.console import logging_to_stderr
from slide.hugepages.commands import main as hugepages
from slide.system.extras import MissingExtra
from slide.system.info import __version__

COMMANDS = (train, evaluate, predict, plot, compare, convert, export, info, tune, import_reference)


def main(argv: list[str] | None = None) -> int:
    """Execute a command line and return the exit status.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["hugepages"]:
        # It parses its own options and reports its own errors.
        return hugepages(argv[1:], "slide hugepages")
    parser = _parser()
    args = parser.parse_args(argv)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    problem = args.check(args)
    if problem:
        parser.error(problem)
    try:
        with logging_to_stderr():
            status = args.run(args)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader has all that it wanted. Python flushes once more at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("slide: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, MemoryError, FloatingPointError, MissingExtra) as error:
        print(f"slide: error: {_stdout_fault() or _message(error)}", file=sys.stderr)
        return 1


def _stdout_fault() -> str | None:
    """Return why standard output cannot be written to, or None; in the first case its rest is dropped."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"standard output: {error.strerror}"
    return None


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or "out of memory"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slide",
        description="Train and use neural networks with 100,000 to millions of outputs on ordinary CPUs.",
        epilog="slide COMMAND --help describes a command and its options.",
    )
    parser.add_argument("--version", action="version", version=f"slide {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    commands.add_parser("hugepages", help="show which memory pages this system gives, and what they are worth")
    return parser
