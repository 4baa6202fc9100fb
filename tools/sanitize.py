#!/usr/bin/env python3
"""Runs the tests with kernels that a sanitizer of GCC watches, built from a copy of the sources.

    python tools/sanitize.py asan                          # AddressSanitizer and UndefinedBehaviorSanitizer: every test
    python tools/sanitize.py asan tests/kernels -x         # some tests; what follows goes to pytest
    python tools/sanitize.py asan --short                  # a few kernels and their tests: a minute or two
    python tools/sanitize.py ubsan tests/kernels           # UndefinedBehaviorSanitizer alone, which is fast
    python tools/sanitize.py tsan                          # ThreadSanitizer: the tests of what runs on several threads
    SLIDE_ISA=avx2 python tools/sanitize.py asan tests/kernels

For Linux and GCC, from a checkout, with Cython, setuptools and the packages of the tests at hand. The copy lies in
``build/sanitize/``; what did not change since the last run is not built again. What each finds and does not find is in
``docs/trust/sanitizers.md``.
"""

import os
import re
import shutil
import subprocess
import sys

from scratch import ROOT, build_command, copy_sources

SANITIZERS = {
    "asan": "address,undefined,float-cast-overflow",
    "ubsan": "undefined,float-cast-overflow",
    "tsan": "thread",
}

# -DSLIDE_DEBUG: the kernels' own assertions. Python's flags have -fwrapv, with which no signed number overflows.
FLAGS = "-O1 -g -DSLIDE_DEBUG -fno-sanitize-recover=all -fno-wrapv"

RUNTIMES = {"asan": ["libasan.so", "libstdc++.so.6"], "ubsan": [], "tsan": ["libtsan.so", "libstdc++.so.6"]}

# The interpreter frees little before it ends, which would be most of a report of leaks; what the kernels need is mapped
# and not from malloc, which such a report does not know. None is in C++; in some wheel of others what new[] gave is
# given back by delete.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:strict_string_checks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    # A child may have threads of its own; what its parent's did is none of its races.
    "TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0:exitcode=66",
}

# Nothing in Python is watched: what it cannot change is left out where a loop has one thread.
THREADED_TESTS = ["tests/kernels", "tests/test_threads.py", "tests/test_network.py", "tests/rows/test_hogwild.py"]

# What follows indices that came from data: where a wrong one leads out of an array. Few extensions are soon built.
SHORT_TESTS = [
    f"tests/kernels/test_{name}.py" for name in ("tables", "tables_capacity", "sampling", "neighbours", "text")
]
SHORT_EXTENSIONS = ("memory", "parallel", "bfloat16", "rows", "tables", "sampling", "neighbours", "text")

# What cannot run in a process that is watched, and why.
EXCLUDED = {
    "asan": {
        "tests/test_bench.py::test_memory_prediction": "what the sanitizer takes for each array is in the measure",
        "tests/test_limits.py::test_a_control_group_is_added_up_and_its_killer_never_comes":
            "what the sanitizer takes does not fit into the group",
    },
    "ubsan": {},
    "tsan": {
        "tests/kernels/test_parallel.py::test_threads_that_wait_soon_sleep":
            "the runtime is there before the package can tell it how long to spin",
    },
}

# What tsan_openmp.c tells, and what orders nothing.
KNOWN_OPENMP = (
    "GOMP_parallel",
    "GOMP_parallel_loop_nonmonotonic_dynamic",
    "GOMP_barrier",
    "GOMP_loop_end",
    "GOMP_loop_end_nowait",
    "GOMP_loop_nonmonotonic_dynamic_start",
    "GOMP_loop_nonmonotonic_dynamic_next",
)


def build(kind, copy, names=()):
    """Compile some kernels of the copy, or all."""
    environment = os.environ | {"SLIDE_FLAGS": f"{FLAGS} -fsanitize={SANITIZERS[kind]}"}
    log = copy / "build.log"
    with open(log, "w") as file:
        command = build_command(names, f"-j{len(os.sched_getaffinity(0))}")
        status = subprocess.run(command, cwd=copy, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        sys.exit(f"the build failed; the end of {log}:\n" + log.read_text()[-3000:])


def check_openmp(copy):
    """Stop where a kernel waits for its threads in a way that ThreadSanitizer is not told of."""
    for module in sorted(copy.glob("slide/kernels/*.so")):
        listed = subprocess.run(["nm", "-D", "--undefined-only", module], check=True, capture_output=True, text=True)
        unknown = set(re.findall(r"(?<!@)\bGOMP_\w+", listed.stdout)) - set(KNOWN_OPENMP)
        if unknown:
            sys.exit(f"{module.name} calls {', '.join(sorted(unknown))}, which tools/tsan_openmp.c does not know yet")


def preloaded(kind, copy):
    """Libraries that must come before the interpreter's own."""
    found = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in RUNTIMES[kind]
    ]
    if kind == "tsan":
        library = copy / "tsan_openmp.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", ROOT / "tools" / "tsan_openmp.c",
                        "-o", library, "-Wl,--no-as-needed", "-lgomp", "-ldl"], check=True)
        found.append(str(library))
    return " ".join(found)


def main():
    """Copy, build, test."""
    if len(sys.argv) < 2 or sys.argv[1] not in SANITIZERS:
        sys.exit(__doc__)
    kind, arguments = sys.argv[1], sys.argv[2:]
    copy = ROOT / "build" / "sanitize" / kind
    copy_sources(copy)
    short = arguments == ["--short"]
    build(kind, copy, SHORT_EXTENSIONS if short else ())
    environment = os.environ | OPTIONS | {"PYTHONMALLOC": "malloc", "PYTHONPATH": str(copy)}
    # pytest would take what goes to standard error and end with it.
    for name in OPTIONS:
        environment[name] += f":log_path={copy / 'report'}"
    for report in copy.glob("report.*"):
        report.unlink()
    # Where the checkout's own neighbour is looked for.
    environment.setdefault("SLIDE_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    environment["LD_PRELOAD"] = preloaded(kind, copy)
    if kind == "tsan":
        check_openmp(copy)
        # Its threads, too, wait for each other in ways that cannot be seen; the package itself calls it from one each.
        environment["OPENBLAS_NUM_THREADS"] = "1"
        environment["TSAN_OPTIONS"] += f":suppressions={copy / 'tools' / 'tsan_suppressions.txt'}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--capture=sys"]
    command += [f"--deselect={test}" for test in EXCLUDED[kind]]
    command += SHORT_TESTS if short else arguments or (THREADED_TESTS if kind == "tsan" else [])
    # Addresses at random may lie where ThreadSanitizer has its own.
    if kind == "tsan" and shutil.which("setarch"):
        command = ["setarch", "-R", *command]
    status = subprocess.run(command, cwd=copy, env=environment).returncode
    reports = sorted(copy.glob("report.*"))
    for report in reports:
        print(report.read_text(errors="replace"))
    sys.exit(f"{len(reports)} reports" if reports else status)


if __name__ == "__main__":
    main()
