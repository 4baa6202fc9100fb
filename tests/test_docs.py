"""What the README and the guide show must run: every block of code, page by page, from top to bottom."""

import json
import os
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from slide import RunConfig
from slide.data import make_extreme, save_xc
from slide.lsh import families, policies

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

IMPORTS_TORCH = re.compile(r"^(import|from) (slide\.)?torch\b", re.MULTILINE)

# Only a fresh machine can run what begins so: .ci/run and tools/check_wheel.sh do.
INSTALLING = ("python3 -m venv", ".venv/bin/", "pip install", "brew", "export", ".ci/run")

# What stands for something, and what makes a command short.
MEANT = {"PID": str(os.getpid()), "COMMAND": f"{sys.executable} -c pass", "every 1000": "every 5"}
SHORTER = {"tune": "--time 1", "hugepages bench": "--working-set 1 --rounds 1", "hugepages watch": "--count 1"}


def blocks(page):
    return [(match[1], match[2]) for match in FENCE.finditer((ROOT / page).read_text())]


def write_files_of_the_reference(folder):
    """What the authors' C++ program reads and writes, for the data here."""
    settings = {"sizesOfLayers": "16,50", "K": "2,2", "L": "4,4", "RangePow": "6,8", "Sparsity": "1,0.5,1,1"}
    settings |= {"Batchsize": 32, "Rehash": 320, "Rebuild": 640, "InputDim": 100, "totRecords": 300, "numLayer": 2}
    settings |= {"totRecordsTest": 60, "Lr": 0.01, "Epoch": 1, "Stepsize": 10}
    settings |= {"trainData": "train.txt.xz", "testData": "test.txt.xz"}
    (folder / "Config_amz.csv").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    arrays = {}
    for i, shape in enumerate([(16, 100), (50, 16)]):
        arrays |= {f"{name}_layer_{i}": np.ones(shape, np.float32) for name in ("w", "am", "av")}
        arrays[f"b_layer_{i}"] = np.zeros(shape[0], np.float32)
    np.savez(folder / "savedWeight.npz", **arrays)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the files that the pages speak of, and registries that forget what a page adds."""
    for path, data in zip(("train", "test"), make_extreme(300, 100, 50, test_samples=60, seed=1), strict=True):
        save_xc(tmp_path / f"{path}.txt.xz", data)
    save_xc(tmp_path / "new.txt", data)
    write_files_of_the_reference(tmp_path)
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    monkeypatch.setattr(policies, "POLICIES", dict(policies.POLICIES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_command(line, run, folder):
    command = line.partition(" #")[0].strip()
    if command.startswith(INSTALLING):
        extras = {name for names in re.findall(r"\.\[([\w,]+)\]", command) for name in names.split(",")}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extras <= set(project["optional-dependencies"]), line
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
            if IMPORTS_TORCH.search(block) and find_spec("torch") is None:
                if page == "README.md":
                    continue  # Those after it do without.
                pytest.skip("the examples from here on need torch, which is not installed; those before it ran")
            exec(compile(block, page, "exec"), names)
        elif language == "sh":
            for line in filter(str.strip, block.splitlines()):
                if ".safetensors" in line and find_spec("safetensors") is None:
                    pytest.skip("one of the commands needs safetensors, which is not installed; those before it ran")
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
