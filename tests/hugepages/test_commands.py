"""The command line: in words, as JSON, as figures, of this system and of others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slide
from slide.hugepages import commands, counters, show, text
from slide.hugepages.bench import bench
from slide.hugepages.commands import main
from slide.hugepages.probe import probe
from slide.hugepages.watch import run, watch

TOOL = Path(__file__).resolve().parents[2] / "tools" / "hugepages.py"
MIB = 1 << 20

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells about pages")
hold = "from slide.kernels.memory import HugeBuffer; b = HugeBuffer(4 << 20, name='some rows'); import time; "
hold += "from slide.kernels.pagebench import touch; touch(b); time.sleep(0.6)"


@pytest.fixture
def environment(monkeypatch):
    """Children find the package where this process did."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def test_status(capsys, tree):
    root = tree({"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"})
    assert main(["status", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "Will a buffer that asks get hugepages here? no." in out
    assert "echo madvise | sudo tee" in out
    assert "\x1b" not in out
    assert main(["status", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["answer"] == "no"


def test_status_of_this_system(capsys):
    assert main(["status"]) == 0
    assert "Will a buffer that asks get hugepages here?" in capsys.readouterr().out


@linux
def test_probe():
    rows = probe(4 * MIB)["buffers"]
    assert [row["mode"] for row in rows[:2]] == ["off", "auto"]
    for row in rows:
        assert row["bytes"] == 4 * MIB
        assert row["seconds"] > 0
        assert row["resident"] in (None, 4 * MIB)
    assert rows[0]["huge"] in (None, 0)
    assert rows[0]["minor_faults"] >= 1
    assert "4 MiB" in show.probe({"buffers": rows})


@linux
def test_bench():
    result = bench(row_bytes=(64, 4096), working_sets=(2 * MIB,), rounds=2)
    assert [(row["operation"], row["row_bytes"]) for row in result["results"]] == [
        (operation, size) for size in (64, 4096) for operation in ("gather", "scatter", "stream")
    ]
    for row in result["results"]:
        assert row["speedup"]["off"] == 1
        assert all(seconds > 0 for seconds in row["seconds"].values())
    shown = show.bench(result)
    assert "gather" in shown
    for name in result["counters_missing"]:
        assert name in shown.replace("\n  ", " ")


@linux
def test_run_names_the_packages_buffers(environment, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # `python -c` looks for modules in the current folder first
    result = run([sys.executable, "-c", hold], interval=0.05)
    assert result["status"] == 0
    assert result["samples"]
    assert any(line["label"] == "slide: some rows" and line["resident"] == 4 * MIB for line in result["mappings"])
    shown = show.watched(result)
    assert "slide: some rows" in shown
    assert "exit status 0" in shown
    assert set(result["events"]) | set(result["counters_missing"]) >= {"page faults", "dTLB load misses", "page walks"}


@linux
def test_run_passes_the_status_on(capfd):
    assert main(["run", "--interval", "0.05", "--", sys.executable, "-c", "print('said'); raise SystemExit(5)"]) == 5
    out = capfd.readouterr().out
    assert out.startswith("said")
    assert "exit status 5" in out


@linux
def test_watch(environment):
    seen = []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            result = watch(process.pid, interval=0.01, count=3, seen=seen.append)
        finally:
            process.kill()
    assert result["samples"] == seen
    assert len(seen) == 3
    assert all(one["resident"] > 0 for one in seen)
    assert seen[0]["minor_faults_per_second"] is None
    assert seen[1]["minor_faults_per_second"] >= 0


def test_watch_of_nobody(capsys):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert main(["watch", str(process.pid)]) == 1
    assert f"there is no process {process.pid}" in capsys.readouterr().err


def test_run_of_nothing(capsys):
    assert main(["run", "--"]) == 1
    assert "no command to start" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["probe", "bench"])
def test_other_systems(capsys, monkeypatch, command):
    monkeypatch.setattr(commands.sys, "platform", "darwin")
    assert main([command]) == 0
    assert "not available here: this is darwin" in capsys.readouterr().out
    assert main([command, "--json"]) == 0
    assert "darwin" in json.loads(capsys.readouterr().out)["unavailable"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "--row", "6"], "a multiple of 4"),
        (["bench", "--rounds", "0"], "a whole number from 1"),
        (["watch", "1", "--interval", "0"], "seconds above 0"),
        ([], "COMMAND"),
    ],
)
def test_misuse(capsys, arguments, says):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@linux
@pytest.mark.parametrize("command", ["status", "probe", "watch"])
def test_plots(tmp_path, tree, command):
    pytest.importorskip("matplotlib")
    options = {"status": ["--root", tree()], "probe": ["--size", 2], "watch": [os.getpid(), "--count", 1]}
    arguments = [command, *map(str, options[command])]
    assert main([*arguments, "--plot", str(tmp_path / "figure.png")]) == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@linux
def test_counters_that_there_are_and_those_that_there_are_not():
    counting = counters.Counters()
    with counting:
        bytearray(8 * MIB)
        time.sleep(0.001)
    counts = counting.read()
    counting.close()
    assert not set(counts) & set(counting.missing)
    assert set(counts) | set(counting.missing) == {*counters.EVENTS, "page walks"}
    assert all(count >= 0 for count in counts.values())
    assert all(counting.missing.values())


def test_counters_on_other_systems(monkeypatch):
    monkeypatch.setattr(counters.platform, "machine", lambda: "z80")
    counting = counters.Counters()
    assert counting.read() == {}
    assert "z80" in counting.missing["page faults"]


def test_the_tool_in_a_checkout_without_a_build(tmp_path):
    """It looks, with nothing but Python's own modules, and says what allocating lacks."""
    bare = tmp_path / "checkout"
    for folder in ("tools", "slide"):
        (bare / folder).mkdir(parents=True)
    (bare / "tools" / "hugepages.py").write_text(TOOL.read_text())
    source = Path(slide.__file__).parent
    wings = [path for wing in ("hugepages", "system", "files") for path in source.glob(f"{wing}/*.py")]
    for path in (source / "__init__.py", *wings, source / "kernels" / "__init__.py"):
        target = bare / "slide" / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    tool = [sys.executable, "-S", "-E", str(bare / "tools" / "hugepages.py")]
    status = subprocess.run([*tool, "status"], capture_output=True, text=True, check=True)
    assert "Will a buffer that asks get hugepages here?" in status.stdout
    missing = subprocess.run([*tool, "probe"], capture_output=True, text=True, check=True)
    assert "not available here" in missing.stdout


def test_text():
    assert [text.size(n) for n in (None, 5, 2048, 3 << 20, 1500 << 30)] == ["?", "5 B", "2 KiB", "3 MiB", "1,500 GiB"]
    assert text.share(1, 4) == "25.0 %"
    assert text.share(None, 4) == text.share(1, 0) == "-"
    assert text.table(("name", "n"), [("a", 1), ("bcde", 22)]) == "name   n\na      1\nbcde  22"


def test_colour_is_for_terminals(monkeypatch):
    class Terminal:
        def __init__(self, answer=True):
            self.isatty = lambda: answer

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert text.paint("no", "red", Terminal()) == "\x1b[31mno\x1b[0m"
    assert text.paint("no", "red", Terminal(False)) == "no"
    monkeypatch.setenv("NO_COLOR", "1")
    assert text.paint("no", "red", Terminal()) == "no"
