"""The samples of a run over several ranks: each rank reads its own part of a batch, and the parts are joined.

During training on a batch, the features and labels of the next one are under way, and the sizes of the one after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce

import numpy as np

from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import DataError, Dataset, MatrixLike
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
    """The samples of a run; it has the attributes and methods of `slide.train.feed.Feed`.

    Parameters
    ----------
    layers : RankStack
        The layers of this rank.
    X, Y : sparse or dense matrices
        All samples, the same on all ranks; or, if `own`, those of this rank.
    config : TrainingConfig
        Settings of the run.
    validation : pair of matrices, optional
        The same on all ranks.
    own : bool
        Whether X and Y have only the samples of this rank.
    on_epoch_end : callable
        Called after the last batch of each epoch.
    """

    def __init__(
        self,
        layers: RankStack,
        X: MatrixLike,
        Y: MatrixLike,
        config: TrainingConfig,
        validation: tuple[MatrixLike, MatrixLike] | None,
        *,
        own: bool = False,
        on_epoch_end: Callable[[], None],
    ):
        if config.on_fault != "stop":
            raise ConfigError(
                f"TrainingConfig.on_fault = {config.on_fault!r} needs one process: on several ranks a fault is found "
                'after the step, too late to skip the batch. Set it to "stop", and resume from the last checkpoint'
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
                "on all ranks, or with own_samples=True only the samples of each rank"
            )
        cuts = Cuts(total, config.batch_size, n_portions)
        of_ranks = cuts.of_ranks(world.size)
        mine = of_ranks[world.rank]
        if own and any(part.stop - part.start != n for part, n in zip(of_ranks, samples.tolist(), strict=True)):
            raise DataError(
                f"rank {world.rank} has {self.given.n_samples} training samples; with {total} samples and batches of "
                f"{config.batch_size} it should have samples {mine.start} to {mine.stop - 1}, as "
                "slide.distributed.own_rows says"
            )
        self.other: Dataset | None = None
        self._probes: list[Dataset] = []
        if validation is not None and config.eval_points:
            self.other = measured(layers, validation, config)
            ends = self.other.n_samples * np.arange(world.size + 1) // world.size
            self._probes = [self.other.subset(slice(int(ends[world.rank]), int(ends[world.rank + 1])))]
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
        if held_out:
            self._probes = [portion.probe for portion in self.portions if portion.probe is not None]
        sizes = [sum(portion.data.n_samples for portion in self.portions), sum(p.n_samples for p in self._probes)]
        sizes.append(max(portion.per_epoch for portion in self.portions))
        every = world.allgather("sizes", np.array(sizes, np.int64))
        self.n_samples, self.n_measured = int(every[:, 0].sum()), int(every[:, 1].sum())
        if held_out and not self.n_measured:
            raise DataError(
                "every portion of the training samples has one sample, so that none can be held out; set "
                "TrainingConfig.holdout to 0"
            )
        self.per_epoch = int(every[:, 2].max())
        row = slice(grid.data.rank * grid.labels.size * each, (grid.data.rank + 1) * grid.labels.size * each)
        self.batch_samples = int(cuts.sizes[row].sum())
        own_counts = reduce(np.add, [column_counts(portion.data.Y) for portion in self.portions])
        self.counts = world.ordered_sum("frequencies", own_counts)
        check_labels(self.counts)

    def facts(self) -> dict:
        """See `slide.train.feed.Feed.facts`; if ranks have only their own samples, without a digest."""
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
            own = reduce(np.add, [column_counts(portion.data.X, nonzero=True) for portion in self.portions])
            df = self._grid.world.ordered_sum("frequencies", own)
            assert layers.feature_weights is not None
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

    def _send(self, rows: tuple[np.ndarray, ...]) -> Parcel:
        """Read this rank's part of a batch and begin to send it to the others."""
        parts = [portion.reader.read(some) for portion, some in zip(self.portions, rows, strict=True)]
        return Parcel(self._grid, parts)

    def evaluate(self, inv_propensity: np.ndarray | None, mask_inputs: bool) -> dict[str, float]:
        """See `slide.train.feed.Feed.evaluate`; each rank measures on its own samples."""
        return evaluate_own(self.layers, self._probes, inv_propensity=inv_propensity, mask_inputs=mask_inputs)

    def wrap(self, callbacks: Callbacks) -> Callbacks:
        """See `slide.train.feed.Feed.wrap`; see `RootCallbacks`."""
        return RootCallbacks(callbacks, self.layers)


class RootCallbacks(Callbacks):
    """Callbacks of rank 0, the only ones that are called; all ranks end the run if one asks for it."""

    def __init__(self, callbacks: Callbacks, layers: RankStack):
        self._layers, self._ranks = layers, layers.grid.world
        super().__init__(list(callbacks) if layers.leads else [])
        self._any = self._ranks.bcast("control", bool(self._all))

    @contextmanager
    def following(self, run: Run, history: History) -> Iterator[None]:
        """See `Callbacks.following`; the history also gets the bytes that this rank received per batch."""
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
