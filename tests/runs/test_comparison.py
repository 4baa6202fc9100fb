import json

import pytest
from small_runs import train, write_history

from slide.runs.comparison import compare, comparison_table, names_of
from slide.runs.history import HistoryFile, read_history


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three runs: one with what ``slide train`` measures, one that was stopped, and one whose end is lacking."""
    folder = tmp_path_factory.mktemp("runs")
    file = HistoryFile(folder / "a" / "history.jsonl", data={"train": "samples.txt"})
    train([file])
    file.tested({"P@1": 0.25}, 60)
    train([HistoryFile(folder / "b.jsonl"), lambda progress: progress.batch == 3], candidates="lsh", units=16)
    write_history(folder / "c.jsonl", epochs=1)
    lines = (folder / "c.jsonl").read_text().splitlines()
    (folder / "c.jsonl").write_text("\n".join(lines[:3]) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return [read_history(folder / name) for name in ("a", "b.jsonl", "c.jsonl")]


def test_what_is_compared(runs):
    a, b, c = compare(runs)
    assert [run["name"] for run in (a, b, c)] == ["a", "b", "c"]
    assert a["settings"] == {
        "network.hidden.0.units": 8,
        "network.output.candidates": "uniform",
        "training.epochs": 2,
        "data.train": "samples.txt",
    }
    assert b["settings"]["network.output.candidates"] == "lsh"
    assert b["settings"]["data.train"] is None
    assert c["settings"]["training.epochs"] == 1
    assert [run["ended"] for run in (a, b, c)] == ["complete", "stopped", "not ended"]
    assert [run["batches"] for run in (a, b, c)] == [8, 3, 2]
    assert a["ms_per_batch"] == pytest.approx(1e3 * a["seconds"] / 8)
    assert (a["rehash_share"], b["rehash_share"] > 0) == (0, True)
    quality = [epoch["quality"]["P@1"] for epoch in runs[0].epochs]
    assert (a["best"], a["last"], a["test"]) == (max(quality), quality[-1], 0.25)
    assert (b["best"], b["last"], b["test"]) == (None, None, None)
    assert c["peak_rss_bytes"] == runs[2].column("rss_bytes").max()


def test_the_best_epoch_is_that_of_the_monitored_metric(folder):
    run = read_history(folder / "a")
    run.epochs = [{**run.epochs[0], "epoch": i + 1, "quality": {"P@1": p}} for i, p in enumerate([0.3, 0.2, 0.1])]
    run.end = {**run.end, "best_epoch": 2}
    (compared,) = compare([run])
    assert (compared["best"], compared["last"]) == (0.2, 0.1)


def test_a_run_that_failed(folder):
    run = read_history(folder / "a")
    run.end = {**run.end, "error": "FloatingPointError: the loss is NaN"}
    assert compare([run])[0]["ended"] == "FloatingPointError"
    run.end = {**run.end, "error": None, "out_of_patience": True}
    assert compare([run])[0]["ended"] == "out of patience"


def test_a_run_without_batches(folder, tmp_path):
    (tmp_path / "x.jsonl").write_text((folder / "c.jsonl").read_text().splitlines(keepends=True)[0])
    (compared,) = compare([read_history(tmp_path / "x.jsonl")])
    assert {name for name, value in compared.items() if value is not None} == {"name", "settings", "ended"}


def test_the_table(run, folder, runs):
    result = run("compare", folder / "a", folder / "b.jsonl", folder / "c.jsonl")
    assert (result.status, result.out) == (0, comparison_table(runs) + "\n")
    lines = result.out.splitlines()
    assert len({len(line) for line in lines}) == 1
    header, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert header[:6] == ["run", "units", "candidates", "epochs", "train", "ended"]
    assert header[-5:] == ["active", "best P@1, %", "last", "test", "MiB"]
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    assert rows[0][:6] == ["a", "8", "uniform", "2", "samples.txt", ""]
    assert rows[1][:6] == ["b", "16", "lsh", "2", "", "stopped"]
    assert rows[0][-2] == "25.00"


def test_the_table_of_one_run(folder):
    header = comparison_table([read_history(folder / "a")]).splitlines()[0]
    # Nothing differs, it ended by itself and has no hash tables.
    assert [cell.strip() for cell in header.strip("|").split("|")][:3] == ["run", "batches", "ms/batch"]


def test_as_json(run, folder, runs):
    result = run("compare", folder / "a", folder / "b.jsonl", folder / "c.jsonl", "--json")
    assert json.loads(result.out) == {"runs": compare(runs)}


def test_settings_of_one_name_are_told_apart(folder):
    runs = [read_history(folder / "a") for _ in range(2)]
    runs[1].header["config"]["network"]["output"]["lsh"]["l"] = 7
    runs[1].header["config"]["network"]["hidden"][0]["lsh"]["l"] = 9
    header = comparison_table(runs).splitlines()[0]
    assert "| 0.lsh.l | output.lsh.l |" in header


def test_runs_of_one_name_are_told_apart(folder, tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "history.jsonl").write_bytes((folder / "a" / "history.jsonl").read_bytes())
    assert names_of([read_history(path) for path in paths]) == ["x/run", "y/run"]
    (tmp_path / "x" / "run.jsonl").write_bytes((folder / "a" / "history.jsonl").read_bytes())
    paths = [tmp_path / "x" / "run.jsonl", *paths]
    assert names_of([read_history(path) for path in paths]) == ["x/run.jsonl", "x/run", "y/run"]
    assert len(names_of([read_history(paths[0])] * 2)) == 2


def test_refusals(run, tmp_path):
    result = run("compare", tmp_path)
    assert (result.status, "history.jsonl: there is no such file" in result.err) == (1, True)
    assert run("compare").status == 2
