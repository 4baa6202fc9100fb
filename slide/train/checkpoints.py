"""Checkpoints of a run. A run that goes on from one reaches the same weights, to the bit, as without an interruption.

A run's folder has a folder for each checkpoint, named by its batch, ``0000001200``, or at the end of an epoch
``0000001408-epoch-2``. Each is a saved network with moments (`slide.persist.format`), as the weights are between two
batches, and has more files:

- ``run.json``: ``format`` (``"slide-run"``) and ``version`` (1); ``training``, the `slide.TrainingConfig`; the other
  arguments of the run, ``data`` and ``validation`` (fingerprints), ``label_weights`` (a digest) and ``mask_inputs``;
  and ``state``, a `slide.train.run_state.RunState`: progress, history, place in the epoch, best epoch;
- ``best.hidden.0.weights.npy`` and so on, float32: the weights of the best epoch, if they are kept.

The orders of the data, the held-out samples and all other draws are functions of the seed and of the epoch or step, so
that they need not be saved. Writing a checkpoint changes nothing about the run. A process that is killed while it
writes a checkpoint leaves the former ones unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from slide.config import ConfigError, NetworkConfig, TrainingConfig
from slide.config.dicts import differences, from_dict, to_dict
from slide.data.dataset import DataError
from slide.files.atomic import new_folder, remove_folder, remove_unfinished, write_file
from slide.files.fields import read_count, read_json, shown
from slide.kernels import dtypes
from slide.model.base import BaseNetwork
from slide.model.faults import NumericalFault, check_network
from slide.persist import saved_network
from slide.persist.checks import CheckpointError, check_finite
from slide.persist.format import write_array
from slide.system.info import __version__
from slide.train.feed import RunFeed
from slide.train.run_state import RunState

log = logging.getLogger("slide")

FORMAT = "slide-run"
VERSION = 1
MANIFEST = "run.json"

_NAME = re.compile(r"\d{10}(-epoch-\d+)?")


class Checkpoints:
    """Where and when a run writes checkpoints, and how many it keeps.

    Parameters
    ----------
    folder : path-like
        Folder for the checkpoints of this run only.
    every : int, optional
        Number of batches from one checkpoint to the next, counted over all epochs. A checkpoint due at the end of an
        epoch is written after the evaluation. The best epoch so far gets a checkpoint at its end too. By default a
        checkpoint is written only when a callback stops the run, or before the batch whose numerical fault ends it.
    keep : int
        Number of newest checkpoints that are kept, 1 or more; 2 by default. The checkpoint of the best epoch is kept
        as well.

    Attributes
    ----------
    folder : Path
        As given.
    every : int or None
        As given.
    keep : int
        As given.
    latest : Path or None
        The checkpoint that was written last; None if none has been.
    written : int or None
        Its batch.

    Raises
    ------
    ValueError
        `every` or `keep` is less than 1.

    Notes
    -----
    If a checkpoint cannot be written, for example because the disk is full, a warning is logged and training goes on.
    If the network is not finite, the run ends before anything is written, and the former checkpoints stay.

    Examples
    --------
    >>> from slide import Checkpoints
    >>> network.fit(X, Y, checkpoints=Checkpoints("run", every=1000))  # doctest: +SKIP
    >>> network.fit(X, Y, checkpoints=Checkpoints("run", every=1000), resume="run")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike, *, every: int | None = None, keep: int = 2):
        for name, value in (("every", every), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.latest: Path | None = None
        self.written: int | None = None

    def newest(self) -> Path | None:
        """Return the newest checkpoint in the folder, None if there is none."""
        names = names_in(self.folder) if self.folder.is_dir() else []
        return self.folder / names[-1] if names else None

    def begin(self, resume: SavedRun | None = None) -> None:
        """Make sure that the folder belongs to this run, and remove unfinished files of a killed process.

        `resume` is the checkpoint from which the run goes on.

        Raises
        ------
        FileExistsError
            The folder has checkpoints of another run or other files, or is no folder.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; checkpoints need a folder: choose another name")
        found = names_in(self.folder)
        others = [entry.name for entry in self.folder.iterdir() if entry.name not in found and entry.name[0] != "."]
        if others:
            raise FileExistsError(f"{self.folder} has {others[0]!r}, which is not a checkpoint; choose another folder")
        if found and (resume is None or resume.path.parent.resolve() != self.folder.resolve()):
            raise FileExistsError(
                f"{self.folder} has checkpoints of a run, the newest {found[-1]}: go on with that run (--resume "
                f"{self.folder}, or resume= in Python), remove the folder, or choose another name"
            )
        remove_unfinished(self.folder)

    def batch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """Write a checkpoint after a batch if one is due or the run ends here; `facts` come from `facts_of`."""
        ends_epoch = state.batches == state.of_epoch or state.progress.batch == state.progress.batches
        if stopping or (self._is_due(state) and not ends_epoch):
            self._write(network, state, facts, f"{state.progress.batch:010d}")

    def fault_met(self, network: BaseNetwork, state: RunState, facts: dict, *, harmless: bool) -> Path | None:
        """Write a checkpoint of the network as it was before a numerical fault that ends the run; return the newest.

        `harmless` says whether the network still is as it was. If not, nothing is written.
        """
        if harmless and state.progress.batch and self.written != state.progress.batch:
            with contextlib.suppress(NumericalFault):
                self._write(network, state, facts, f"{state.progress.batch:010d}")
        return self.newest()

    def epoch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """Write a checkpoint at the end of an epoch if one is due, the epoch is the best, or the run ends here."""
        epoch = state.progress.epoch
        best = self.every is not None and state.best.epoch == epoch
        if state.unfinished and (stopping or best or self._is_due(state)):
            self._write(network, state, facts, f"{state.progress.batch:010d}-epoch-{epoch}")

    def _is_due(self, state: RunState) -> bool:
        return self.every is not None and state.progress.batch % self.every == 0

    def _write(self, network: BaseNetwork, state: RunState, facts: dict, name: str) -> None:
        path = self.folder / name
        try:
            check_network(network.layers)
        except NumericalFault as fault:
            good = self.newest()
            last = "" if good is None else f". The last good one is {good}"
            raise fault.with_context(f"checkpoint {path} was not written: ", last) from None
        try:
            with new_folder(path) as folder:
                self._fill(folder, network, state, facts)
        except OSError as error:
            # A full disk must not cost the run that the checkpoint was to protect.
            why = error.strerror or error
            log.warning("checkpoint %s could not be written, training goes on without it: %s", path, why)
            return
        self._written(path, state)

    def _fill(self, folder: Path, network: BaseNetwork, state: RunState, facts: dict) -> None:
        for part, array in (state.best.weights or {}).items():
            write_file(folder / f"best.{part}.npy", partial(write_array, array=array))
        write_run(folder, state, facts)
        saved_network.write(network.layers, folder, moments=True)

    def _written(self, path: Path, state: RunState) -> None:
        """Record that a checkpoint is complete, and remove older ones."""
        self.latest, self.written = path, state.progress.batch
        log.info("checkpoint %s", path)
        self._prune(path.name, state.best.epoch)

    def _prune(self, newest: str, best: int | None) -> None:
        """Remove all but the newest few up to `newest`, and the best.

        Checkpoints after `newest` are from before the run was resumed; they stay.
        """
        older = [name for name in names_in(self.folder) if name <= newest]
        for name in older[: -self.keep]:
            if not name.endswith(f"-epoch-{best}"):
                remove_folder(self.folder / name)


class NoCheckpoints:
    """Stands for `Checkpoints` in a run without them: writes nothing."""

    def begin(self, resume: SavedRun | None = None) -> None:
        """See `Checkpoints.begin`."""

    def batch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """See `Checkpoints.batch_done`."""

    def fault_met(self, network: BaseNetwork, state: RunState, facts: dict, *, harmless: bool) -> Path | None:
        """See `Checkpoints.fault_met`."""
        return None

    def epoch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """See `Checkpoints.epoch_done`."""


class SavedRun:
    """A checkpoint whose JSON files have been read and checked, but not its arrays.

    Parameters
    ----------
    path : path-like
        A checkpoint, or a folder of checkpoints, which stands for its newest.

    Attributes
    ----------
    path : Path
        Folder of the checkpoint.
    training : TrainingConfig
        Settings of the run.
    network : NetworkConfig
        Configuration of the network.
    batch : int
        Number of batches of the run so far.
    portions : int or None
        Number of portions into which a run on several ranks cut its samples; None for a run of one process.

    Raises
    ------
    CheckpointError
        There is no checkpoint, or it is damaged, incomplete or of another version.
    """

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        names = names_in(path) if path.is_dir() else []
        self.path = newest(path)
        manifest = self.path / MANIFEST
        try:
            values = read_json(manifest)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is not a checkpoint of a run and has none: there is no {MANIFEST}. A network that was saved "
                "without its run cannot be resumed; to train it further, use Network.load and fit"
            ) from None
        except (OSError, ValueError) as error:
            others = f"; {path} has others: {', '.join(names[:-1])}" if names[:-1] else ""
            raise CheckpointError(f"{manifest}: {error}{others}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{manifest}: not a {FORMAT} file")
        self._values = values
        if self._values.get("version") != VERSION:
            raise CheckpointError(
                f"{manifest}: format version {shown(self._values.get('version'))}, this slide {__version__} reads "
                f"version {VERSION}"
            )
        about = saved_network.describe(self.path)
        try:
            self.training = from_dict(TrainingConfig, self._values["training"])
            self.network = from_dict(NetworkConfig, about["config"])
            self.batch = read_count(self._values["state"]["progress"], "batch")
            self.portions = read_count({"shares": None} | self._values, "shares", optional=True)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{manifest}: {error}") from None

    def check_config(self, network: NetworkConfig, training: TrainingConfig | None) -> None:
        """Refuse settings that differ from those of the run.

        ``hugepages`` may differ, because no result depends on it, and ``on_fault``, because no result before the first
        fault does. `training` is None for the settings of the run.

        Raises
        ------
        ConfigError
            Another setting differs; the message names it.
        """
        found = differences(to_dict(network), to_dict(self.network), "network")
        found += differences(to_dict(training or self.training), to_dict(self.training), "training")
        for path, one, other in found:
            if path not in ("network.hugepages", "training.on_fault"):
                raise ConfigError(
                    f"{path} is {one!r} here and {other!r} in the run of checkpoint {self.path}: a resumed run keeps "
                    "its settings. Leave the setting out, or start a new run"
                )

    def check_facts(self, facts: dict) -> None:
        """Refuse data that differ from those of the run; `facts` come from `facts_of`.

        Raises
        ------
        DataError
            The training data, the validation data, the label weights or ``mask_inputs`` differ, or the run had several
            portions and goes on in one process.
        """
        if "shares" not in facts and self.portions not in (None, 1):
            raise DataError(
                f"the run of checkpoint {self.path} had its samples in {self.portions} portions, on several ranks: "
                "resume it on any number of ranks (mpiexec -n 1 slide train ... --distributed; comm= in Python), which "
                "gives the same batches. To predict, or to start a new run from its weights, load it like any saved "
                "network"
            )
        for name, what in (
            ("data", "the training data"),
            ("validation", "the validation data"),
            ("label_weights", "label_weights"),
            ("mask_inputs", "mask_inputs"),
        ):
            here, there = facts[name], self._values.get(name)
            if isinstance(here, dict) and isinstance(there, dict) and "" in (here["digest"], there.get("digest")):
                # A rank with its own samples knows the number of all samples, but not the contents of the others.
                here, there = here | {"digest": ""}, there | {"digest": ""}
            if here == there:
                continue
            if isinstance(here, dict) and isinstance(there, dict):
                counts = [k for k in here if k not in ("digest", "mapped") and here[k] != there.get(k)]
                why = ", ".join(f"{here[k]:,} {_words(k)} here, {there.get(k)} there" for k in counts)
                if here["mapped"] != there.get("mapped"):
                    places = ("in memory", "a converted folder")
                    why = why or f"{places[here['mapped']]} here, {places[not here['mapped']]} there: another order"
                why = why or "the same number of samples, but other contents"
            else:
                why = f"{_plain(here)} here, {_plain(there)} there"
            raise DataError(
                f"{what}: not the same as in the run of checkpoint {self.path} ({why}). To resume a run, give fit "
                "everything that the run began with"
            )

    def restore(self, network: BaseNetwork, state: RunState) -> None:
        """Give a network and the state of a run what the checkpoint has.

        Raises
        ------
        CheckpointError
            The checkpoint is damaged or incomplete; the network must not be used any more.
        """
        saved_network.restore(network, self.path)
        try:
            best = None
            if state.best.config.keeps_best and self._values["state"]["best"]["epoch"] is not None:
                files = saved_network.open_arrays(self.path)
                best = {}
                for name, view in network.layers.weights().items():
                    best[name] = np.empty(view.shape, dtypes.VALUE)
                    saved_network.read_into(best[name], files, f"best.{name}", network.layers)
                    check_finite(files.name(f"best.{name}"), best[name])
            state.restore(self._values["state"], best)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.path / MANIFEST}, 'state': {error!r}") from None


def write_run(folder: Path, state: RunState, facts: dict) -> None:
    """Write ``run.json`` of a checkpoint; `facts` come from `facts_of`."""
    values = {"format": FORMAT, "version": VERSION, "slide": __version__, **facts, "state": state.state()}
    write_file(folder / MANIFEST, lambda stream: stream.write(json.dumps(values, indent=1).encode()))


def facts_of(config: TrainingConfig, feed: RunFeed, mask_inputs: bool, label_weights: np.ndarray | None) -> dict:
    """Return the arguments of a run as plain values, by which a resumed run can tell whether it gets the same."""
    weights = None
    if label_weights is not None:
        weights = hashlib.blake2b(np.asarray(label_weights, np.float64).tobytes(), digest_size=16).hexdigest()
    return {
        "training": to_dict(config),
        **feed.facts(),
        "label_weights": weights,
        "mask_inputs": bool(mask_inputs),
    }


def newest(path: str | os.PathLike) -> Path:
    """Return the newest checkpoint in a folder of checkpoints, or `path` itself if it is not such a folder."""
    path = Path(path)
    names = names_in(path) if path.is_dir() else []
    return path / names[-1] if names else path


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's checkpoints, oldest first."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))


def _words(count: str) -> str:
    """Return the name of a count of a fingerprint in words."""
    return count.replace("_", " ").replace("points", "samples")


def _plain(fact: object) -> str:
    if isinstance(fact, bool):
        return "on" if fact else "off"
    return "none" if fact is None else "some"
