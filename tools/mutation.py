#!/usr/bin/env python3
"""Puts faults into a copy of the sources, one at a time, and tells which of them the tests notice.

    python tools/mutation.py                       # all faults of tools/mutations.toml; an hour or two
    python tools/mutation.py --only sampling.pyx   # those whose file or text has these words
    python tools/mutation.py --minutes 30          # as many as that allows, of every file the first ones first
    python tools/mutation.py --trust               # where the tests are known to pass

A fault is caught if a test fails, crashes or does not end. From a checkout, with Cython, setuptools and the packages of
the tests at hand; the copy lies in ``build/mutation/``. Only the extensions that a fault is in are compiled anew.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from scratch import ROOT, build_command, copy_sources

LIST = ROOT / "tools" / "mutations.toml"

# Little to optimise is soon compiled.
FLAGS = "-O1 -g0"

# Seconds of a processor that the tests of a fault may take: many times what they do.
MOST_SECONDS = 300


def faults(path=LIST):
    """Return the faults in the list's order, a dict each: file, old, new, build and tests."""
    return [
        {key: source[key] for key in ("file", "build", "tests")} | {"old": old, "new": new}
        for source in tomllib.loads(path.read_text())["source"]
        for old, new in source["faults"]
    ]


def in_turns(chosen):
    """The first fault of every file, then the second of each, and so on."""
    seen = {}
    turns = [seen.setdefault(fault["file"], []).append(fault) or len(seen[fault["file"]]) for fault in chosen]
    return [fault for _, fault in sorted(zip(turns, chosen, strict=True), key=lambda pair: pair[0])]


class Copy:
    """The copy of the sources, built."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | {"SLIDE_FLAGS": FLAGS, "PYTHONPATH": str(folder)}
        self.environment.setdefault("SLIDE_TEST_DATA", str(ROOT.parent / "shared" / "data"))
        copy_sources(folder)
        if error := self.build():
            sys.exit(f"the copy could not be built:\n{error}")

    def build(self, *names):
        """Compile some extensions, or all; return what went wrong, if anything did."""
        command = build_command(names, *["--force"] * bool(names))
        # What a fault is in may be older than its translation, by a clock that counts seconds.
        environment = self.environment | {"CYTHON_FORCE_REGEN": "1"} if names else self.environment
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        return (done.stdout + done.stderr)[-3000:] if done.returncode else ""

    def test(self, tests):
        """Run tests up to the first that fails; return pytest's exit status, or why it had none."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=4 * MOST_SECONDS, preexec_fn=limit)
        except subprocess.TimeoutExpired:
            return "did not end"
        return done.returncode if done.returncode >= 0 else signal.Signals(-done.returncode).name

    def judge(self, fault):
        """Put a fault in, test, take it out; return what became of it."""
        path = self.folder / fault["file"]
        sound, changed = path.read_text(), path.stat().st_mtime_ns
        if sound.count(fault["old"]) != 1:
            return "NO PLACE"
        kernels = self.folder / "slide" / "kernels"
        kept = {file: file.read_bytes() for name in fault["build"] for file in kernels.glob(f"{name}.*.so")}
        try:
            path.write_text(sound.replace(fault["old"], fault["new"]))
            if fault["build"] and (error := self.build(*fault["build"])):
                return f"NOT BUILT: {error[-600:]}"
            status = self.test(fault["tests"])
        finally:
            path.write_text(sound)
            os.utime(path, ns=(changed, changed))
            for file, content in kept.items():
                file.unlink(missing_ok=True)
                file.write_bytes(content)
            # What was made of the fault must not be taken for up to date by another run.
            for name in fault["build"]:
                for file in [kernels / f"{name}.c", *self.folder.glob(f"build/*/slide/kernels/{name}.*")]:
                    file.unlink(missing_ok=True)
        if status == 0:
            return "SURVIVED"
        return "caught" if status == 1 else f"caught ({status})"


def limit():
    """Have a test that never ends end."""
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 10))


def main():
    """Judge the chosen faults and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="in a fault's file or text")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no fault later than this")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a fault first")
    parser.add_argument("--list", type=Path, default=LIST, help="another list of faults")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and take the fault out
    chosen = [f for f in faults(options.list) if options.only in f["file"] + "\n" + f["old"]]
    copy = Copy(ROOT / "build" / "mutation")
    if not options.trust and (status := copy.test(sorted({test for fault in chosen for test in fault["tests"]}))):
        sys.exit(f"the tests fail without any fault: {status}")
    start, judged = time.monotonic(), []
    for fault in in_turns(chosen):
        if time.monotonic() - start > 60 * options.minutes:
            break
        verdict = copy.judge(fault)
        judged.append(verdict)
        print(f"{verdict:10} {fault['file']}: {fault['old'].strip()!r} -> {fault['new'].strip()!r}", flush=True)
    caught = sum(verdict.startswith("caught") for verdict in judged)
    print(f"{caught} of {len(judged)} faults caught, {100 * caught / max(1, len(judged)):.0f}%; "
          f"{len(chosen) - len(judged)} not tried")


if __name__ == "__main__":
    main()
