"""The stubs say what the compiled modules have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slide import kernels

pytest.importorskip("mypy", reason="stubtest is a part of mypy")

FOLDER = Path(kernels.__file__).parent

# What Cython adds to every module and class, and no stub mentions.
OF_CYTHON = [r".*\.__test__", r".*\.__pyx_capi__", r".*\.__reduce_cython__", r".*\.__setstate_cython__"]


def test_every_compiled_module_has_a_stub():
    compiled = {path.name.split(".")[0] for path in FOLDER.glob("*.so")}
    assert compiled == {path.stem for path in FOLDER.glob("*.pyi")}


def test_stubs_agree_with_the_modules(tmp_path):
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("\n".join(OF_CYTHON))
    modules = [f"slide.kernels.{path.stem}" for path in sorted(FOLDER.glob("*.pyi"))]
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-unused-allowlist"]
    result = subprocess.run(
        [*command, "--allowlist", str(allowed), *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
