"""Curves of training runs as a figure; matplotlib is an extra (``plots``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slide.runs.comparison import names_of
from slide.runs.history import HistoryError, RecordedRun
from slide.system.extras import load_extra

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that everyone can tell apart (Okabe and Ito, *Color Universal Design*, 2008); more runs repeat them, dashed
and dotted."""

STYLES = ("-", "--", ":")

NAME_LENGTH = 40
"""Longest name of a run in the legend, in characters."""


def check(path: str | os.PathLike) -> None:
    """Check, before a run, that a figure of it can be written.

    Raises
    ------
    MissingExtra
        Matplotlib is not installed.
    ValueError
        Matplotlib does not write files with such a name, or the folder does not exist.
    """
    path = Path(path)
    kinds = _new_figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{path}: the name of a figure ends in one of {', '.join('.' + kind for kind in kinds)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.absolute().parent} to draw a figure in")


def draw(runs: Sequence[RecordedRun], path: str | os.PathLike) -> None:
    """Draw the curves of runs over each other: loss, P@1, active neurons, the share of rehashing, and memory.

    Parameters
    ----------
    runs : sequence of RecordedRun
        Runs that `read_history` returned.
    path : path-like
        File to write; the end of its name is the format.

    Raises
    ------
    HistoryError
        A run has no batches yet.
    MissingExtra, ValueError
        As ``check`` does.
    """
    check(path)
    for run in runs:
        if not run.batches:
            raise HistoryError(f"{run.path}: there is nothing to draw: the run has no batches yet")
    figure = _new_figure(figsize=(12, 6.8), layout="constrained")
    panels = figure.subplots(2, 3)
    seconds, unit = _time_unit(max(run.last["seconds"] for run in runs))
    memory, memory_unit = _memory_unit(max(run.column("rss_bytes").max() for run in runs))
    for i, (run, name) in enumerate(zip(runs, names_of(runs), strict=True)):
        look = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": STYLES[i // len(COLOURS) % len(STYLES)],
            # Each run is thinner than the one before, so that runs with equal curves are all visible.
            "linewidth": 1.4 + 0.9 * (len(runs) - 1 - i) / max(len(runs) - 1, 1),
        }
        samples, times = run.column("samples"), run.column("seconds") / seconds
        (loss, by_samples, by_time), (active, rehash, rss) = panels
        loss.plot(samples, run.column("loss"), **look, label=_shortened(name))
        for axes, x, field, scale in ((by_samples, samples, "samples", 1), (by_time, times, "seconds", seconds)):
            axes.plot(x, 100 * run.column("precision"), **look, alpha=0.4)
            epochs = [epoch for epoch in run.measured if "P@1" in epoch["quality"]]
            at = [epoch[field] / scale for epoch in epochs]
            axes.plot(at, [100 * epoch["quality"]["P@1"] for epoch in epochs], **look, marker="o", markersize=4)
        active.plot(samples, run.column("active"), **look)
        with np.errstate(invalid="ignore"):
            rehash.plot(times, 100 * run.column("rehash_seconds") / run.column("seconds"), **look)
        rss.plot(times, run.column("rss_bytes") / memory, **look)
    _finish(figure, panels, runs, unit, memory_unit)
    smaller = {"pil_kwargs": {"optimize": True}} if Path(path).suffix.lower() == ".png" else {}
    figure.savefig(path, dpi=90, **smaller)


def _finish(figure: Any, panels: np.ndarray, runs: Sequence[RecordedRun], unit: str, memory_unit: str) -> None:
    """Label the axes, and add the legends."""
    (loss, by_samples, by_time), (active, rehash, rss) = panels
    loss.set_title("loss, running mean")
    by_samples.set_title("P@1, %")
    by_time.set_title("P@1, %")
    active.set_title("active outputs of a sample")
    rehash.set_title("rehashing, % of the time so far")
    rss.set_title(f"memory of the process, {memory_unit}")
    if not any(run.column("rehash_seconds").any() for run in runs):
        rehash.text(0.5, 0.5, "no hash tables", transform=rehash.transAxes, ha="center", color="grey")
    engineering = load_extra("matplotlib.ticker", "plots", "a figure").EngFormatter(sep="")
    for axes in (loss, by_samples, active):
        axes.set_xlabel("samples")
        axes.xaxis.set_major_formatter(engineering)
    for axes in (by_time, rehash, rss):
        axes.set_xlabel(f"{unit} of training")
    active.yaxis.set_major_formatter(engineering)
    for axes in panels.flat:
        axes.set(xlim=(0, None), ylim=(0, _top(axes)))
        axes.locator_params(nbins=6)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    line = load_extra("matplotlib.lines", "plots", "a figure").Line2D
    how = [
        line([], [], color="grey", linewidth=1, alpha=0.6, label="in training: running mean, of active outputs"),
        line([], [], color="grey", marker="o", markersize=4, label="measured: of all outputs"),
    ]
    by_samples.legend(handles=how if any(run.measured for run in runs) else how[:1], fontsize="x-small", loc="best")
    figure.legend(loc="outside upper center", ncols=min(len(runs), 4), frameon=False)


def _top(axes: Any) -> float:
    """Return the end of the axis: above all curves except their beginnings, which may be far above the rest."""
    curves = [line.get_ydata() for line in axes.get_lines()]
    rest = np.concatenate([curve[len(curve) // 50 :] for curve in curves])
    rest = rest[np.isfinite(rest)]
    return 1.08 * rest.max() if rest.size and rest.max() > 0 else 1.0


def _new_figure(**options: Any) -> Any:
    return load_extra("matplotlib.figure", "plots", "a figure").Figure(**options)


def _time_unit(seconds: float) -> tuple[int, str]:
    """Return the unit that suits so many seconds: its length in seconds, and its name."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 3 * unit:
            return unit, name
    return 1, "seconds"


def _memory_unit(n_bytes: float) -> tuple[int, str]:
    return (2**30, "GiB") if n_bytes >= 2**30 else (2**20, "MiB")


def _shortened(name: str) -> str:
    if len(name) <= NAME_LENGTH:
        return name
    half = NAME_LENGTH // 2
    return f"{name[: half - 1]}…{name[-half:]}"
