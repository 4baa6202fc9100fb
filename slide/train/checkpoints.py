"""Checkpoints of a run, from which it goes on to the very bits that it would have reached uninterrupted.

A run's folder has a folder for each checkpoint, named by its batch, ``0000001200``, or at the end of an epoch
``0000001408-epoch-2``. Each is a saved network with moments (`slide.persist.saved_network`), as the weights stand between two
batches, and besides

- ``run.json``: ``format`` (``"slide-run"``) and ``version`` (1); ``training``, the `slide.TrainingConfig`; what the run
  was given besides, ``data``, ``validation`` (fingerprints), ``label_weights`` (a digest) and ``mask_inputs``; and
  ``state``, a `slide.train.run_state.RunState`: progress, history, place in the epoch, best epoch;
- ``best.hidden.0.weights.npy`` and so on, float32: the weights of the best epoch, where they are kept.

The orders of the data, what is held out and all other draws are functions of the seed and of epoch or step, so that
they need no place. Writing a checkpoint changes nothing about the run, and a process that is killed while it writes one
leaves those before as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
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
from slide.train.feed import Feed
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
        Of this run alone.
    every : int, optional
        Batches from one to the next, counted over all epochs; one that falls on the end of an epoch waits for its
        evaluation. The end of an epoch that is the best so far has a checkpoint too. By default there is one only where
        a callback stops the run, or before the batch whose numerical fault does.
    keep : int
        How many of the newest are kept; that of the best epoch is kept besides.

    Attributes
    ----------
    latest : Path or None
        The last that was written.
    written : int or None
        The batch that it is of.

    Raises
    ------
    ValueError
        `every` or `keep` is not 1 or more.

    Notes
    -----
    A checkpoint that cannot be written, such as to a full disk, is logged as a warning, and training goes on. A network
    that is not finite ends the run instead, before anything is written: the checkpoints that there are stay.
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
        """Return the newest checkpoint that there is."""
        names = names_in(self.folder) if self.folder.is_dir() else []
        return self.folder / names[-1] if names else None

    def begin(self, resume: SavedRun | None = None) -> None:
        """Make sure that the folder is this run's, and clear away what a killed process left in it.

        Parameters
        ----------
        resume : SavedRun, optional
            What the run goes on from.

        Raises
        ------
        FileExistsError
            It has another run's checkpoints, or is something else.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; checkpoints need a folder: choose another name")
        found = names_in(self.folder)
        others = [entry.name for entry in self.folder.iterdir() if entry.name not in found and entry.name[0] != "."]
        if others:
            raise FileExistsError(f"{self.folder} has {others[0]!r}, which is no checkpoint; choose another folder")
        if found and (resume is None or resume.path.parent.resolve() != self.folder.resolve()):
            raise FileExistsError(
                f"{self.folder} has checkpoints of a run, the newest {found[-1]}: go on with that run (--resume "
                f"{self.folder}, or resume= in Python), remove the folder, or choose another name"
            )
        remove_unfinished(self.folder)

    def batch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """Write a checkpoint if one is due after a batch.

        Parameters
        ----------
        network : BaseNetwork
        state : RunState
        facts : dict
            From `facts_of`.
        stopping : bool
            Whether the run ends here.
        """
        ends_epoch = state.batches == state.of_epoch or state.progress.batch == state.progress.batches
        if stopping or (self._is_due(state) and not ends_epoch):
            self._write(network, state, facts, f"{state.progress.batch:010d}")

    def fault_met(self, network: BaseNetwork, state: RunState, facts: dict, *, harmless: bool) -> Path | None:
        """Write a checkpoint of what there was before a numerical fault that ends the run; return the newest.

        Parameters
        ----------
        network, state, facts
            As for ``batch_done``.
        harmless : bool
            Whether the network is as it was before. If not, nothing is written.
        """
        if harmless and state.progress.batch and self.written != state.progress.batch:
            with contextlib.suppress(NumericalFault):
                self._write(network, state, facts, f"{state.progress.batch:010d}")
        return self.newest()

    def epoch_done(self, network: BaseNetwork, state: RunState, facts: dict, *, stopping: bool) -> None:
        """Write a checkpoint if one is due at the end of an epoch; the parameters are those of ``batch_done``."""
        epoch = state.progress.epoch
        best = self.every is not None and state.best.epoch == epoch
        if state.unfinished and (stopping or best or self._is_due(state)):
            self._write(network, state, facts, f"{state.progress.batch:010d}-epoch-{epoch}")

    def _is_due(self, state):
        return self.every is not None and state.progress.batch % self.every == 0

    def _write(self, network, state, facts, name):
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

    def _fill(self, folder, network, state, facts):
        for part, array in (state.best.weights or {}).items():
            file = folder / f"best.{part}.npy"
            write_file(file, lambda stream, array=array: write_array(stream, array))
        write_run(folder, state, facts)
        saved_network.write(network.layers, folder, moments=True)

    def _written(self, path, state):
        """Take note of a checkpoint that is complete, and let older ones go."""
        self.latest, self.written = path, state.progress.batch
        log.info("checkpoint %s", path)
        self._prune(path.name, state.best.epoch)

    def _prune(self, newest, best):
        """Remove what is older than the newest few. What is newer is of this run too, before it was resumed."""
        older = [name for name in names_in(self.folder) if name <= newest]
        for name in older[: -self.keep]:
            if not name.endswith(f"-epoch-{best}"):
                remove_folder(self.folder / name)


class NoCheckpoints:
    """What a run without checkpoints has in their place: nothing is written."""

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
    """A checkpoint, read and checked as far as that takes no arrays.

    Parameters
    ----------
    path : path-like
        A checkpoint, or a folder of them, of which the newest counts.

    Attributes
    ----------
    path : Path
        Of the checkpoint.
    training : TrainingConfig
    network : NetworkConfig
    batch : int
        The last that was trained on.
    portions : int or None
        Number of portions that a run on several ranks cut its samples into; None for a run of one process.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged, incomplete or of another version.
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
                f"{path} is no checkpoint of a run and has none: there is no {MANIFEST}. A network that was saved "
                "without its run can be trained on from where it is, but not resumed: Network.load and fit"
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
        """Refuse settings other than the run's.

        Parameters
        ----------
        network : NetworkConfig
            ``hugepages``, on which no number depends, may be another.
        training : TrainingConfig or None
            None for the run's. ``on_fault``, on which nothing depends up to the first fault, may be another.

        Raises
        ------
        ConfigError
            A setting is another; the message names it.
        """
        pairs = [("network", network, self.network), ("training", training or self.training, self.training)]
        for where, given, own in pairs:
            for path, one, other in differences(to_dict(given), to_dict(own), where):
                if path not in ("network.hugepages", "training.on_fault"):
                    raise ConfigError(
                        f"{path} is {one!r} here and {other!r} in the run that {self.path} is of: a resumed run keeps "
                        "its settings. Leave the setting out, or start a new run"
                    )

    def check_facts(self, facts: dict) -> None:
        """Refuse data other than the run's.

        Parameters
        ----------
        facts : dict
            From `facts_of`.

        Raises
        ------
        DataError
            The data, the validation data or the label weights are others.
        """
        if "shares" not in facts and self.portions not in (None, 1):
            raise DataError(
                f"the run that {self.path} is of had its samples in {self.portions} portions, on several ranks: go on with "
                "it on any number of them (mpiexec -n 1 slide train ... --distributed; comm= in Python), which has the "
                "same batches. To predict, or to train anew from its weights, load it as any saved network"
            )
        for name, what in (
            ("data", "the training data"),
            ("validation", "the validation data"),
            ("label_weights", "label_weights"),
            ("mask_inputs", "mask_inputs"),
        ):
            here, there = facts[name], self._values.get(name)
            if isinstance(here, dict) and isinstance(there, dict) and "" in (here["digest"], there.get("digest")):
                # Ranks that have their own samples each know how many there are in all, and nothing of their contents.
                here, there = here | {"digest": ""}, there | {"digest": ""}
            if here == there:
                continue
            if isinstance(here, dict) and isinstance(there, dict):
                counts = [k for k in here if k not in ("digest", "mapped") and here[k] != there.get(k)]
                why = ", ".join(f"{here[k]:,} {k.replace('_', ' ')} here, {there.get(k)} there" for k in counts)
                if here["mapped"] != there.get("mapped"):
                    places = ("in memory", "a folder that was converted")
                    why = why or f"{places[here['mapped']]} here, {places[not here['mapped']]} there: another order"
                why = why or "as many samples as there, but other contents"
            else:
                why = f"{_plain(here)} here, {_plain(there)} there"
            raise DataError(
                f"{what}: not what the run that {self.path} is of was given ({why}). A run is resumed with all that it "
                "began with, or not at all"
            )

    def restore(self, network: BaseNetwork, state: RunState) -> None:
        """Bring a network and a run to where they stood.

        Parameters
        ----------
        network : BaseNetwork
        state : RunState

        Raises
        ------
        CheckpointError
            The checkpoint is damaged or incomplete; the network is not to be used.
        """
        saved_network.restore(network, self.path)
        try:
            best = None
            if state.best.config.keeps_best and self._values["state"]["best"]["epoch"] is not None:
                files = saved_network.open_arrays(self.path)
                views = network.layers.parameters(moments=False)
                best = {}
                for name, view in views.items():
                    if name != "feature_weights":
                        best[name] = np.empty(view.shape, dtypes.VALUE)
                        saved_network.read_into(best[name], files, f"best.{name}", network.layers)
                        check_finite(files.name(f"best.{name}"), best[name])
            state.restore(self._values["state"], best)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.path / MANIFEST}, 'state': {error!r}") from None


def write_run(folder: Path, state: RunState, facts: dict) -> None:
    """Write ``run.json``.

    Parameters
    ----------
    folder : Path
        Of a checkpoint that is being written.
    state : RunState
    facts : dict
        From `facts_of`.
    """
    values = {"format": FORMAT, "version": VERSION, "slide": __version__, **facts, "state": state.state()}
    write_file(folder / MANIFEST, lambda stream: stream.write(json.dumps(values, indent=1).encode()))


def facts_of(config: TrainingConfig, feed: Feed, mask_inputs: bool, label_weights: np.ndarray | None) -> dict:
    """Return what a run was given, as plain values that tell whether it is given the same again.

    Parameters
    ----------
    config : TrainingConfig
    feed : Feed
    mask_inputs : bool
    label_weights : array or None
    """
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
    """Return a checkpoint, of a folder of them the newest.

    Parameters
    ----------
    path : path-like
    """
    path = Path(path)
    names = names_in(path) if path.is_dir() else []
    return path / names[-1] if names else path


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's checkpoints, oldest first.

    Parameters
    ----------
    folder : Path
    """
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))


def _plain(fact):
    if isinstance(fact, bool):
        return "on" if fact else "off"
    return "none" if fact is None else "some"
