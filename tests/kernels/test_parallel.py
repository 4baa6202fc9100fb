"""Threads, quotas and instruction sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import slide
from slide.kernels import SPINS, parallel

LEVELS = ("baseline", "avx2", "avx512")
SUPPORTED = LEVELS[: LEVELS.index(parallel.isa_supported()) + 1]


def environment(**changes):
    package = str(Path(slide.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])} | changes


def test_build_has_openmp():
    assert parallel.openmp_version() >= 201107


@pytest.mark.parametrize("level", LEVELS)
def test_environment_lowers_the_instruction_set(level, tmp_path):
    program = "from slide.kernels import parallel; print(parallel.isa())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(SLIDE_ISA=level),
        cwd=tmp_path,  # `python -c` looks for modules in the current folder first
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == (level if level in SUPPORTED else parallel.isa_supported())


@pytest.mark.skipif("SLIDE_ISA" in os.environ, reason="this process runs at a chosen level itself")
@pytest.mark.parametrize("level", SUPPORTED[:-1])
def test_twins_agree_at_every_lower_level(level):
    here = Path(__file__).parent
    files = [str(here / f"test_{name}.py") for name in ("sparse", "optim", "losses", "dense", "hashing", "catch_up")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "twin and not 2threads", *files],
        env=environment(SLIDE_ISA=level),
        cwd=here.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_resolve_threads():
    assert parallel.resolve_threads(3) == 3
    assert parallel.resolve_threads() == parallel.available_cpus() >= 1


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_number_of_threads_is_checked(threads):
    with pytest.raises(ValueError, match="threads must be a positive integer or None"):
        parallel.resolve_threads(threads)


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000", None),
        ("", None),
        ("1 0", None),
        ("0 5", None),
    ],
)
def test_quota_of_cgroup_version_2(tmp_path, content, cores):
    (tmp_path / "cpu.max").write_text(content)
    assert parallel.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000\n", 1.5), ("-1\n", None), ("many", None)])
def test_quota_of_cgroup_version_1(tmp_path, quota, cores):
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert parallel.cpu_quota(tmp_path) == cores


def test_no_quota(tmp_path):
    assert parallel.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cpus"), [(0.2, 1), (1.4, 1), (1e9, None), (None, None)])
def test_available_cpus_respects_the_quota(monkeypatch, quota, cpus):
    monkeypatch.setattr(parallel, "cpu_quota", lambda: quota)
    expected = cpus or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    assert parallel.available_cpus() == expected


def test_available_cpus_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert parallel.available_cpus() == 1


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_threads_that_wait_soon_sleep(chosen, spins, tmp_path):
    program = "import os, slide.kernels; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {name: text for name, text in environment().items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in run.stderr:
        pytest.skip("this OpenMP runtime is not GCC's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in run.stderr
    # What other programs find in the environment is not changed.
    assert run.stdout.strip() == chosen.get("GOMP_SPINCOUNT", "None")
