"""Each command's result as a figure, drawn by matplotlib (the extra ``plots``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slide.hugepages.bench import MODES
from slide.hugepages.text import size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def save(command: str, result: dict, path: str | os.PathLike) -> None:
    """Draw the result of a command into a file, in the format that its name ends in.

    Raises ValueError if there is no matplotlib, or nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib (or the extra slide-xc[plots])") from None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    DRAW[command](figure.subplots(), result)
    figure.savefig(path)


def _status(axes: Axes, result: dict) -> None:
    blocks = result["facts"].get("free_blocks")
    if not blocks:
        raise ValueError("there is nothing to draw: the sizes of free blocks are not known here")
    orders = sorted(blocks["by_order"])
    axes.bar([size(4096 << order) for order in orders], [blocks["by_order"][order] / 2**20 for order in orders])
    axes.set(title=f"free memory by size of block; hugepages: {result['verdict']['answer']}", ylabel="MiB")
    axes.tick_params(axis="x", rotation=45)


def _probe(axes: Axes, result: dict) -> None:
    rows = result["buffers"]
    axes.bar([row["mode"] for row in rows], [row["seconds"] / row["bytes"] * 2**30 for row in rows])
    axes.set(title="first touch", ylabel="seconds per GiB")


def _bench(axes: Axes, result: dict) -> None:
    rows = result["results"]
    modes = [mode for mode in MODES if mode != "off" and any(mode in row["speedup"] for row in rows)]
    width = 0.8 / len(modes)
    for i, mode in enumerate(modes):
        places = [place + (i - (len(modes) - 1) / 2) * width for place in range(len(rows))]
        axes.bar(places, [row["speedup"].get(mode, 0.0) for row in rows], width, label=MODES[mode])
    names = [f"{row['operation']}, {size(row['row_bytes'])}, {size(row['working_set'])}" for row in rows]
    axes.set_xticks(range(len(rows)), names, rotation=90, fontsize="x-small")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(title="operation, row, working set", ylabel="times as fast as 4 KiB pages")
    axes.legend()


def _watched(axes: Axes, result: dict) -> None:
    samples = result["samples"]
    if not samples:
        raise ValueError("there is nothing to draw: the process was never seen")
    seconds = [one["seconds"] for one in samples]
    axes.plot(seconds, [one["resident"] / 2**20 for one in samples], label="resident")
    if samples[0]["huge"] is not None:
        axes.plot(seconds, [one["huge"] / 2**20 for one in samples], label="in hugepages")
    axes.set(xlabel="seconds", ylabel="MiB", ylim=(0, None))
    axes.legend()


DRAW = {"status": _status, "probe": _probe, "bench": _bench, "watch": _watched, "run": _watched}
