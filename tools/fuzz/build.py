"""A copy of the package whose kernels report their coverage, with bounds checks, and without OpenMP.

The kernels are compiled by the Clang that comes with the package ziglang, since libFuzzer wants counters and
comparisons that only Clang inserts. One thread makes what is found repeatable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

COMPILER = """#!/bin/sh
exec {python} -m ziglang cc "$@" -fno-sanitize=undefined -fsanitize=fuzzer-no-link
"""


def copy_sources(work: Path) -> Path:
    """Bring the copy's Python up to date and return its folder.

    Parameters
    ----------
    work : Path
    """
    copy = work / "package"
    for folder in ("slide", "tools"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix in (".py", ".pyx", ".pxd", ".h"):
                target = copy / file.relative_to(REPOSITORY)
                if not target.exists() or target.read_bytes() != file.read_bytes():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(REPOSITORY / name, copy / name)
    return copy


def build(work: Path) -> None:
    """Compile the copy's kernels.

    Parameters
    ----------
    work : Path

    Raises
    ------
    subprocess.CalledProcessError
        A package is missing (``pip install atheris ziglang`` and what `pyproject.toml` says a build takes), or a
        kernel does not compile.
    """
    copy = copy_sources(work)
    compiler = work / "cc"
    compiler.write_text(COMPILER.format(python=sys.executable))
    compiler.chmod(0o755)
    cache = str(work / "zig")
    environment = os.environ | {
        "CC": str(compiler),
        "LDSHARED": "cc -shared",
        "SLIDE_DEBUG": "1",
        "ZIG_GLOBAL_CACHE_DIR": cache,
        "ZIG_LOCAL_CACHE_DIR": cache,
    }
    subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=copy, env=environment, check=True)
