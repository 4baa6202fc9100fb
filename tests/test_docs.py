"""What the README and the guide show must run: every block of code, page by page, from top to bottom."""

import json
import os
import re
import shlex
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from slide import RunConfig, families, policies
from slide.data import make_extreme, save_xc

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Only a fresh machine can run what begins so: .ci/run and tools/check_wheel.sh do.
INSTALLING = ("python3 -m venv", ".venv/bin/", "pip install", "brew", "export", ".ci/run")

# What stands for something, and what makes a command short.
MEANT = {"PID": str(os.getpid()), "COMMAND": f"{sys.executable} -c pass"}
SHORTER = {"tune": "--time 1", "hugepages bench": "--working-set 1 --rounds 1", "hugepages watch": "--count 1"}


def blocks(page):
    return [(match[1], match[2]) for match in FENCE.finditer((ROOT / page).read_text())]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the files that the pages speak of, and registries that forget what a page adds."""
    for path, data in zip(("train", "test"), make_extreme(300, 100, 50, test_points=60, seed=1), strict=True):
        save_xc(tmp_path / f"{path}.txt.xz", data)
    save_xc(tmp_path / "new.txt", data)
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    monkeypatch.setattr(policies, "POLICIES", dict(policies.POLICIES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_command(line, run, folder):
    command = line.partition(" #")[0].strip()
    if command.startswith(INSTALLING):
        extras = {name for names in re.findall(r"\.\[([\w,]+)\]", command) for name in names.split(",")}
        assert extras <= set(metadata("slide-xc").get_all("Provides-Extra")), line
        return
    command, _, file = command.partition(" > ")
    for word, meaning in MEANT.items():
        command = command.replace(word, meaning)
    program, *arguments = shlex.split(command)
    assert program == "slide", f"{line}: neither the command nor an installation"
    if "hugepages" in arguments and not sys.platform.startswith("linux"):
        return
    arguments += shlex.split(next((more for start, more in SHORTER.items() if f"slide {start}" in command), ""))
    result = run(*arguments)
    assert result.status == 0, f"{line}: {result.err}"
    if file:
        (folder / file).write_text(result.out)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, folder, run):
    names = {}
    for language, block in blocks(page):
        if language == "python":
            if "sklearn" in block and find_spec("sklearn") is None:
                pytest.skip("one of the examples needs scikit-learn, which is not installed; those before it ran")
            exec(compile(block, page, "exec"), names)
        elif language == "sh":
            for line in filter(str.strip, block.splitlines()):
                check_command(line, run, folder)
        elif language == "toml":
            (folder / "run.toml").write_text(block)
            RunConfig.from_toml(folder / "run.toml")
        elif language == "json":
            json.loads(block)
        else:
            assert language == "text" or re.match(r"{(include|toctree|eval-rst)}", language), f"unknown: {language}"
    if page == "docs/tutorial.md":
        check_tutorial(names)


def check_tutorial(names):
    assert names["quality"]["P@1"] > 0.6
    (new_before, old_before), (new_after, old_after) = names["before"], names["after"]
    assert new_before < 0.4 < 0.6 < new_after
    assert abs(old_after - old_before) < 0.1
