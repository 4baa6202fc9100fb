"""The samples of a run over several ranks: each reads its own, and what they read makes a batch.

While a batch is trained on, the features and labels of the next one are under way, and the sizes of the one after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import DataError
from slide.data.fingerprint import fingerprint
from slide.data.statistics import column_counts
from slide.kernels import dtypes
from slide.model import initialization
from slide.ranks.parcels import AHEAD, JoinedBatch, Parcel
from slide.ranks.portions import Cuts, Portion, batches_of, rows_of
from slide.ranks.stack import RankStack
from slide.ranks.topk import evaluate_own
from slide.train.callbacks import Callbacks, Run
from slide.train.feed import check_labels, fitting, measured
from slide.train.records import History, Progress


class DistributedFeed:
    """The samples of a run; see `slide.train.feed.Feed`, whose attributes and methods it has.

    Parameters
    ----------
    layers : RankStack
    X, Y : sparse or dense matrices
        All samples, the same on all ranks, of which each trains on its own; or those of this rank, if `own`.
    config : TrainingConfig
    validation : pair of matrices, optional
        The same on all ranks.
    own : bool
    on_epoch_end : callable
        Called at the end of each epoch's batches.
    """

    def __init__(
        self,
        layers: RankStack,
        X: csr_matrix,
        Y: csr_matrix,
        config: TrainingConfig,
        validation: tuple[csr_matrix, csr_matrix] | None,
        *,
        own: bool = False,
        on_epoch_end: Callable[[], None],
    ):
        if config.on_fault != "stop":
            raise ConfigError(
                f"TrainingConfig.on_fault = {config.on_fault!r} needs one process: of a batch over several ranks it is "
                'known too late that it should be left out. Set it to "stop", and go on from the last checkpoint'
            )
        self.layers, self.config, self._on_epoch_end = layers, config, on_epoch_end
        self._grid = grid = layers.grid
        world, seed, n_portions = grid.world, layers.config.seed, grid.n_portions
        self.given, self._own = fitting(layers, X, Y, "training"), own
        samples = world.allgather("sizes", np.array([self.given.n_samples], np.int64))[:, 0]
        total = int(samples.sum() if own else samples[0])
        if not total:
            raise DataError("the training data has no samples")
        if not own and (samples != total).any():
            raise DataError(
                f"the ranks have {', '.join(map(str, samples[:8].tolist()))} training samples: fit takes the same data "
                "on all ranks, or with own_samples=True each rank's samples alone"
            )
        cuts = Cuts(total, config.batch_size, n_portions)
        of_ranks = cuts.of_ranks(world.size)
        mine = of_ranks[world.rank]
        if own and any(part.stop - part.start != n for part, n in zip(of_ranks, samples.tolist(), strict=True)):
            raise DataError(
                f"rank {world.rank} has {self.given.n_samples} training samples; of {total} samples and batches of "
                f"{config.batch_size} it should have those from {mine.start} to {mine.stop - 1}: "
                "slide.distributed.own_rows says which"
            )
        self.other, self._probe = None, None
        if validation is not None and config.eval_points:
            self.other = measured(layers, validation, config)
            ends = self.other.n_samples * np.arange(world.size + 1) // world.size
            self._probe = self.other.subset(slice(int(ends[world.rank]), int(ends[world.rank + 1])))
        held_out = config.holdout if validation is None else 0.0
        each, start = n_portions // world.size, mine.start if own else 0
        most = max(1, config.eval_points // n_portions)
        self.portions = [
            Portion(
                rows_of(self.given, slice(int(cuts.ends[s]) - start, int(cuts.ends[s + 1]) - start)),
                s,
                int(cuts.sizes[s]),
                config,
                seed,
                held_out,
                most,
            )
            for s in range(each * world.rank, each * (world.rank + 1))
        ]
        probes = [portion.probe for portion in self.portions if portion.probe is not None]
        if held_out:
            self._probe = probes
        elif self._probe is not None:
            self._probe = [self._probe]
        sizes = [sum(portion.data.n_samples for portion in self.portions), sum(p.n_samples for p in self._probe or ())]
        sizes.append(max(portion.per_epoch for portion in self.portions))
        every = world.allgather("sizes", np.array(sizes, np.int64))
        self.n_samples, self.n_measured = int(every[:, 0].sum()), int(every[:, 1].sum())
        if held_out and not self.n_measured:
            raise DataError("no portion of the training samples has one to spare for holdout; set it to 0")
        self.per_epoch = int(every[:, 2].max())
        row = slice(grid.data.rank * grid.labels.size * each, (grid.data.rank + 1) * grid.labels.size * each)
        self.batch_samples = int(cuts.sizes[row].sum())
        self.counts = world.ordered_sum("frequencies", sum(column_counts(portion.data.Y) for portion in self.portions))
        check_labels(self.counts)

    def facts(self) -> dict:
        """See `slide.train.feed.Feed.facts`; of ranks that have their own samples each, how many there are in all."""
        data = fingerprint(self.given)
        if self._own:
            names = "points", "values", "labels_of_points"
            totals = self._grid.world.ordered_sum("sizes", np.array([data[name] for name in names], np.int64))
            data |= dict(zip(names, totals.tolist(), strict=True)) | {"digest": ""}
        other = None if self.other is None else fingerprint(self.other)
        return {"data": data, "validation": other, "shares": self._grid.n_portions}

    def start(self) -> None:
        """See `slide.train.feed.Feed.start`."""
        layers = self.layers
        if layers.config.feature_weights == "idf":
            df = sum(column_counts(portion.data.X, nonzero=True) for portion in self.portions)
            df = self._grid.world.ordered_sum("frequencies", df)
            layers.feature_weights[:] = initialization.idf_of(df, self.n_samples)

    def open(self) -> None:
        """See `slide.train.feed.Feed.open`."""
        for portion in self.portions:
            portion.open(self.layers)

    def batches(self, epoch: int, first: int) -> Iterator[Parcel]:
        """See `slide.train.feed.Feed.batches`."""
        rows, nothing = batches_of(self.portions, epoch, first), (np.zeros(0, dtypes.OFFSET),) * len(self.portions)
        under_way: deque[Parcel] = deque()
        try:
            for number in range(first, self.per_epoch + AHEAD):
                if number < self.per_epoch:
                    under_way.append(self._send(next(rows, nothing)))
                if len(under_way) > AHEAD or (under_way and number >= self.per_epoch):
                    # The sizes of the next one were sent a batch ago.
                    for parcel in list(under_way)[:AHEAD]:
                        parcel.send()
                    yield under_way.popleft()
            self._on_epoch_end()
        finally:
            for parcel in under_way:
                parcel.abandon()

    def read(self, parcel: Parcel) -> JoinedBatch:
        """See `slide.train.feed.Feed.read`."""
        return parcel.receive()

    def _send(self, rows):
        """Read this rank's part of a batch and begin to send it to the others."""
        return Parcel(self._grid, [portion.reader.read(some) for portion, some in zip(self.portions, rows, strict=True)])

    def evaluate(self, inv_propensity: np.ndarray | None, mask_inputs: bool) -> dict[str, float]:
        """See `slide.train.feed.Feed.evaluate`; each rank measures on its own samples."""
        return evaluate_own(self.layers, self._probe, inv_propensity=inv_propensity, mask_inputs=mask_inputs)

    def wrap(self, callbacks: Callbacks) -> Callbacks:
        """See `slide.train.feed.Feed.wrap`: those of rank 0 are told, and all ranks do as they say."""
        return RootCallbacks(callbacks, self.layers)


class RootCallbacks(Callbacks):
    """Callbacks that rank 0 alone calls; all ranks end the run if one of them asks for it.

    Parameters
    ----------
    callbacks : Callbacks
        Those of ranks other than 0 are never called.
    layers : RankStack
    """

    def __init__(self, callbacks: Callbacks, layers: RankStack):
        self._layers, self._ranks = layers, layers.grid.world
        super().__init__(list(callbacks) if layers.leads else [])
        self._any = self._ranks.bcast("control", bool(self._all))

    @contextmanager
    def following(self, run: Run, history: History) -> Iterator[None]:
        """See `Callbacks.following`; the history is given what was received in the run."""
        before, step = self._layers.traffic.copy(), self._layers.step
        with super().following(run, history):
            try:
                yield
            finally:
                received, batches = self._layers.traffic.bytes - before.bytes, max(1, self._layers.step - step)
                history.bytes_per_batch = {kind: received[kind] / batches for kind in sorted(received)}

    def on_batch(self, progress: Progress) -> bool:
        """See `Callbacks.on_batch`."""
        return self._any and self._ranks.agree("control", super().on_batch(progress))

    def on_epoch(self, progress: Progress) -> bool:
        """See `Callbacks.on_epoch`."""
        return self._any and self._ranks.agree("control", super().on_epoch(progress))
