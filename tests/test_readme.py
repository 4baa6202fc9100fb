"""What the README shows must run."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from slide import RunConfig

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks("python")
    assert found
    for block in found:
        if "sklearn" in block and find_spec("sklearn") is None:
            pytest.skip("one of the examples needs scikit-learn, which is not installed; those before it ran")
        exec(compile(block, str(README), "exec"), names)
    assert "P@1" in capsys.readouterr().out


def test_toml_block_is_a_configuration(tmp_path):
    (block,) = blocks("toml")
    (tmp_path / "run.toml").write_text(block)
    RunConfig.from_toml(tmp_path / "run.toml")
