"""Runs side by side: the settings in which they differ, their cost and their quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from slide.files.tables import table
from slide.runs.history import RecordedRun

COMPLETE = "complete"
"""End of a run that was neither stopped nor failed."""


def compare(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Return the figures of runs, to compare them.

    Parameters
    ----------
    runs : sequence of RecordedRun
        Runs that `read_history` returned.

    Returns
    -------
    list of dict
        For each run its ``name``; ``settings``, those in which the runs differ, by their path in the configuration,
        with the sizes, the threads and the data; ``ended`` (how), ``batches``, ``ms_per_batch``, ``seconds``,
        ``rehash_share``, ``active``; ``best`` and ``last``, the P@1 of the best and of the last measured epoch;
        ``test``, the P@1 on test data; and ``peak_rss_bytes``. Unknown values are None.
    """
    settings = [_settings(run) for run in runs]
    paths = dict.fromkeys(path for one in settings for path in one)
    differ = [path for path in paths if any(one.get(path) != settings[0].get(path) for one in settings)]
    return [
        {"name": name, "settings": {path: one.get(path) for path in differ}, **_figures(run)}
        for run, name, one in zip(runs, names_of(runs), settings, strict=True)
    ]


def names_of(runs: Sequence[RecordedRun]) -> list[str]:
    """Return a name for each run: its own or, if two runs have the same, the part of its path that differs."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    # Below the last folder that all have in common.
    paths = [run.path.absolute().parent if run.path.parent.name == run.name else run.path.absolute() for run in runs]
    parts = [path.parts for path in paths]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return [str(Path(*part[shared:])) for part in parts]


def comparison_table(runs: Sequence[RecordedRun]) -> str:
    """Return an aligned Markdown table with a row for each run."""
    compared = compare(runs)
    paths = list(compared[0]["settings"])
    header = ["run", *_short(paths), *(title for title, _ in COLUMNS)]
    rows = [
        [one["name"], *(_plain(one["settings"][path]) for path in paths), *(show(one) for _, show in COLUMNS)]
        for one in compared
    ]
    # Empty columns are left out.
    keep = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    return table([header[i] for i in keep], [[row[i] for i in keep] for row in rows], markdown=True)


def _settings(run: RecordedRun) -> dict[str, Any]:
    """Return all settings by their path, with the sizes, the threads, the data and the machine."""
    header = run.header
    of_data = {f"data.{what}": name for what, name in header["data"].items()}
    sizes = {name: header[name] for name in ("points", "n_features", "n_labels", "threads")}
    machine = {f"machine.{name}": header["machine"].get(name) for name in ("processor", "isa")}
    return {**_flat(header["config"]), **of_data, **sizes, **machine, "slide": header.get("slide")}


def _flat(values: dict[str, Any] | list[Any], path: str = "") -> dict[str, Any]:
    """Return nested dictionaries and lists as one dictionary with dotted paths."""
    items: Iterable[tuple[object, Any]] = values.items() if isinstance(values, dict) else enumerate(values)
    out: dict[str, Any] = {}
    for name, value in items:
        below = f"{path}.{name}" if path else str(name)
        out.update(_flat(value, below) if isinstance(value, (dict, list)) else {below: value})
    return out


def _figures(run: RecordedRun) -> dict[str, Any]:
    end, last = run.end or {}, run.last
    batches, seconds = (end or last).get("batch"), (end or last).get("seconds")
    rehashing = (end or last).get("rehash_seconds")
    measured = [epoch["quality"]["P@1"] for epoch in run.measured if "P@1" in epoch["quality"]]
    best = {epoch["epoch"]: epoch["quality"].get("P@1") for epoch in run.epochs}.get(end.get("best_epoch"))
    return {
        "ended": _ended(run),
        "batches": batches,
        "ms_per_batch": 1e3 * seconds / batches if batches and seconds is not None else None,
        "seconds": seconds,
        "rehash_share": rehashing / seconds if seconds else None,
        "active": (end or last).get("active"),
        "best": max(measured, default=None) if best is None else best,
        "last": measured[-1] if measured else None,
        "test": run.test.get("P@1"),
        "peak_rss_bytes": end.get("peak_rss_bytes", max((line["rss_bytes"] for line in run.batches), default=None)),
    }


def _ended(run: RecordedRun) -> str:
    if run.end is None:
        return "not ended"
    if run.end.get("error"):
        return run.end["error"].partition(":")[0]
    if run.end.get("stopped"):
        return "stopped"
    return "out of patience" if run.end.get("out_of_patience") else COMPLETE


def _short(paths: list[str]) -> list[str]:
    """Return the last part of each path, or as many parts as make it differ from the others."""
    out: list[str] = []
    for path in paths:
        parts = path.split(".")
        for n in range(1, len(parts) + 1):
            short = ".".join(parts[-n:])
            if not short.isdecimal() and sum(other == short or other.endswith(f".{short}") for other in paths) == 1:
                break
        out.append(short)
    return out


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(name: str, form: str, scale: float = 1) -> Callable[[dict[str, Any]], str]:
    return lambda one: "" if one[name] is None else format(scale * one[name], form)


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("ended", lambda one: "" if one["ended"] == COMPLETE else one["ended"]),
    ("batches", _number("batches", ",")),
    ("ms/batch", _number("ms_per_batch", ".2f")),
    ("seconds", _number("seconds", ".1f")),
    ("rehash, %", lambda one: _number("rehash_share", ".0f", 100)(one) if one["rehash_share"] else ""),
    ("active", _number("active", ",.0f")),
    ("best P@1, %", _number("best", ".2f", 100)),
    ("last", _number("last", ".2f", 100)),
    ("test", _number("test", ".2f", 100)),
    ("MiB", _number("peak_rss_bytes", ",.0f", 2**-20)),
)
"""Columns of the table after those of the settings: their titles, and a function from figures to their text."""
