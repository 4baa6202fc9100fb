import re

import pytest
from small_runs import write_history

from slide.data import make_extreme, save_xc
from slide.runs import plots
from slide.runs.history import HistoryError, read_history
from slide.system import extras

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs: one without hash tables, measured, and one with them, not measured."""
    folder = tmp_path_factory.mktemp("runs")
    write_history(folder / "uniform" / "history.jsonl")
    write_history(folder / "tables" / "history.jsonl", candidates="lsh", eval_points=0)
    return [folder / "uniform", folder / "tables"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn."""
    figures, finish = [], plots._finish

    def finished(figure, *arguments):
        figures.append(figure)
        finish(figure, *arguments)

    monkeypatch.setattr(plots, "_finish", finished)
    return figures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def test_several_runs_are_laid_over_each_other(run, runs, drawn, tmp_path):
    result = run("plot", *runs, "--out", "both.png")
    assert (result.status, result.out) == (0, "")
    assert "drew both.png" in result.err
    assert is_png(tmp_path / "both.png")
    (figure,) = drawn
    titles = [re.match(r"[\w@]+", axes.get_title()).group() for axes in figure.axes]
    assert titles == ["loss", "P@1", "P@1", "active", "rehashing", "memory"]
    units = [axes.get_xlabel().split()[0] for axes in figure.axes]
    assert units == ["samples", "samples", "seconds", "samples", "seconds", "seconds"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["uniform", "tables"]
    loss, by_samples, _, _, rehash, _ = figure.axes
    assert [len(line.get_xdata()) for line in loss.get_lines()] == [8, 8]
    # Of each run P@1 in training, and measured at the end of epochs.
    assert [len(line.get_xdata()) for line in by_samples.get_lines()] == [8, 2, 8, 0]
    assert list(by_samples.get_lines()[1].get_xdata()) == [400, 800]
    shares = [max(line.get_ydata()) for line in rehash.get_lines()]
    assert shares[0] == 0 < shares[1] < 100
    assert not rehash.texts


def test_colours_tell_runs_apart(runs, drawn, tmp_path):
    plots.draw([read_history(runs[0])] * 9, tmp_path / "many.svg")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].get_lines()}
    assert len(looks) == 9


def test_nothing_runs_over_the_edge(runs, drawn, tmp_path):
    """Titles, ticks and legends lie within the figure, and the panels' do not overlap."""
    plots.draw([read_history(path) for path in runs], tmp_path / "both.png")
    (figure,) = drawn
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_train_draws_its_run(run, drawn, tmp_path):
    save_xc(tmp_path / "train.txt", make_extreme(300, 100, 50))
    result = run("train", "train.txt", "--plot", "run.png", "--batch-size", 100, "--epochs", 1)
    assert result.status == 0
    assert "drew run.png" in result.err
    assert is_png(tmp_path / "run.png")
    rehash = drawn[0].axes[4]
    assert [text.get_text() for text in rehash.texts] == ["no hash tables"]


def test_time_and_memory_have_units_that_suit(runs, drawn, tmp_path):
    recorded = read_history(runs[0])
    for line in recorded.batches + recorded.epochs:
        line["seconds"], line["rss_bytes"] = 1e4 * line["batch"], 2**31
    plots.draw([recorded], tmp_path / "run.png")
    memory = drawn[0].axes[5]
    assert memory.get_title().endswith("GiB")
    assert list(memory.get_lines()[0].get_ydata()) == [2.0] * 8
    assert memory.get_xlabel() == "hours of training"


def test_long_names_are_shortened():
    assert plots._shortened("x" * 40) == "x" * 40
    short = plots._shortened("a" * 30 + "b" * 30)
    assert (len(short), short[0], short[-1]) == (40, "a", "b")


def test_a_run_without_batches(written_header, tmp_path):
    with pytest.raises(HistoryError, match="there is nothing to draw: the run has no batches yet"):
        plots.draw([read_history(written_header)], tmp_path / "run.png")
    assert not (tmp_path / "run.png").exists()


@pytest.fixture
def written_header(runs, tmp_path):
    path = tmp_path / "header.jsonl"
    path.write_text((runs[0] / "history.jsonl").read_text().splitlines(keepends=True)[0])
    return path


def test_refusals(run, runs, tmp_path):
    for command in (["plot", *runs, "--out"], ["train", "absent.txt", "--plot"]):
        assert "run.xyz: the name of a figure ends in one of " in run(*command, "run.xyz").err
        assert "there is no folder" in run(*command, "absent/run.png").err
    assert run("plot").status == 2
    result = run("plot", tmp_path)
    assert (result.status, "history.jsonl: there is no such file" in result.err) == (1, True)


def test_without_matplotlib(run, runs, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    for command in (["plot", *runs], ["train", "absent.txt", "--plot", "run.png"]):
        result = run(*command)
        assert result.status == 1
        assert "slide: error: a figure needs matplotlib, which cannot be imported (No module" in result.err
        assert "pip install 'slide-xc[plots]'" in result.err
