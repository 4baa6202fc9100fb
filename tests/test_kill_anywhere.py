"""Training that is killed at any moment, also while it writes: the short form of ``tools/kill_anywhere.py``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slide.files import atomic
from slide.files.atomic import new_folder, remove_folder, remove_unfinished

TOOL = Path(__file__).parents[1] / "tools" / "kill_anywhere.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_few_kills(tmp_path):
    command = [sys.executable, TOOL, "--kills", "5", "--seed", "3", "--points", "400", "--folder", tmp_path / "run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert (report["kills"], report["lost"], report["faults"]) == (5, 0, [])
    assert report["restarts"] >= 6
    assert report["runs_completed"] >= 1
    assert report["in_checkpoints"] + report["in_the_network"] >= 1


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleared away behind it."""


def kill_at(monkeypatch, name, count):
    """Let the process end at a call of `os.replace` or `shutil.rmtree`, before it does anything."""
    where = {"replace": (atomic.os, "replace"), "rmtree": (atomic.shutil, "rmtree")}[name]
    calls, function = [], getattr(*where)

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) >= count:
            raise Killed
        return function(*arguments, **options)

    monkeypatch.setattr(*where, dying)


@pytest.mark.parametrize("name", ["replace", "rmtree"])
def test_a_folder_that_is_replaced_is_always_there(tmp_path, monkeypatch, name):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        if content == "new":
            kill_at(monkeypatch, name, 1)
        try:
            with new_folder(path) as folder:
                (folder / "file").write_text(content)
        except Killed:
            pass
        assert (path / "file").read_text() in ("old", content)
    monkeypatch.undo()
    remove_unfinished(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_two_ways_to_replace_a_folder(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with new_folder(path) as folder:
            (folder / content).touch()
    assert [file.name for file in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_folder_whose_removal_is_cut_short_is_gone_or_whole(tmp_path, monkeypatch):
    for name in ("replace", "rmtree"):
        path = tmp_path / "folder"
        path.mkdir(exist_ok=True)
        (path / "file").touch()
        kill_at(monkeypatch, name, 1)
        with pytest.raises(Killed):
            remove_folder(path)
        monkeypatch.undo()
        assert not path.exists() or (path / "file").exists()
        assert path.exists() is (name == "replace")
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []
