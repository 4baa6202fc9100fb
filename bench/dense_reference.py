"""Does sampled training reach the accuracy of the dense network? The same network, by slide and densely by PyTorch.

    python bench/dense_reference.py TRAIN TEST [--config FILE.toml] [--epochs N] [--lr X] [--seeds 3] [--validate]

Both start from the same weights and see the same batches in the same order, with the same features left out, at the
same learning rates; the dense one computes every unit and every output, with AdamW (SGD, where configured) on all
parameters. Quality is measured after every epoch, on the same samples by the same exact search. Seconds are of training
alone. Where slide is told to compute everything (``candidates = "full"``, ``lazy = "exact"``) the two agree.

The best epoch is the one of highest P@1; the decline is the last epoch's from it. For outputs too large to train
densely to the end, ``--max-batches`` stops both at the same batch, the learning rate at its end by then. PyTorch is in
the extra ``peers``.
"""

import json
import time
from dataclasses import replace

import numpy as np
from common import KS, configuration, groups, options, parse, read, record, spread, table

from slide import Network
from slide.data.order import epoch_order
from slide.kernels.dropout import drop_entries, drop_units
from slide.model import initialization
from slide.model.layers import InputLayer
from slide.train.learning_rate import lr_factor

METRICS = tuple(f"P@{k}" for k in KS)


def main():
    args = parse_arguments()
    train, test = read(args)
    run = configuration(args, lr=args.lr, max_batches=args.max_batches)
    run = replace(run, training=replace(run.training, eval_points=test.n_samples))
    runs = []
    for seed in range(args.seeds):
        config = replace(run.network, seed=seed)
        sampled, batches = train_sampled(args, config, run.training, train, test)
        record(args, runs, {"network": "sampled", "seed": seed, **sampled})
        if not args.skip_dense:
            dense = train_dense(args, config, run.training, train, test, batches)
            record(args, runs, {"network": "dense", "seed": seed, **dense})
    if args.json:
        print(json.dumps({"ratio": ratios(runs)}))
    else:
        print(markdown(runs))


def parse_arguments():
    parser = options(__doc__)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--max-batches", type=int)
    parser.add_argument("--skip-dense", action="store_true")
    parser.add_argument("--device", default="cpu", help="of the dense network: what PyTorch calls it")
    return parse(parser)


def train_sampled(args, config, training, train, test):
    """Return the figures of slide's run, and after how many batches it ended."""
    network = Network(train.n_features, train.n_labels, config, threads=args.threads)
    pair = (test.X, test.Y)
    history = network.fit(train.X, train.Y, config=training, validation=pair, mask_inputs=args.mask_inputs)
    epochs = [
        {"epoch": epoch.epoch, "seconds": epoch.seconds, **{name: epoch.quality[name] for name in METRICS}}
        for epoch in history.epochs
        if epoch.quality
    ]
    return summary(epochs, history.train_seconds, history.active_per_sample), history.batches


def train_dense(args, config, training, train, test, batches):
    """Return the figures of the dense run, of so many batches."""
    # Its weights are where training starts, and where they are evaluated from.
    network = Network(train.n_features, train.n_labels, config, threads=args.threads, trainable=False)
    counts = np.bincount(train.Y.indices, minlength=train.n_labels)
    network.output.set_label_frequency(counts / train.n_samples, samples=train.n_samples)
    initialization.start(network.layers, train)
    dense = Dense(network, args.threads, args.device)
    reader = network.reader(train.X, train.Y, training.batch_size)
    per_epoch = -(-train.n_samples // training.batch_size)
    planned = min(training.epochs * per_epoch, training.max_batches or training.epochs * per_epoch)
    epochs, done = [], 0
    while done < batches:
        if training.shuffle:
            order = epoch_order(train.n_samples, config.seed, len(epochs) + 1)
        else:
            order = np.arange(train.n_samples)
        start = time.perf_counter()
        for first in range(0, train.n_samples, training.batch_size):
            if done == batches:
                break
            batch = reader.read(order[first : first + training.batch_size])
            dense.step(batch, done, lr_factor(training, done, planned, per_epoch))
            done += 1
        dense.wait()
        seconds = time.perf_counter() - start
        dense.copy_to(network)
        quality = network.evaluate(test.X, test.Y, ks=KS, mask_inputs=args.mask_inputs)
        epochs.append({"epoch": len(epochs) + 1, "seconds": seconds, **{name: quality[name] for name in METRICS}})
    return summary(epochs, sum(epoch["seconds"] for epoch in epochs), train.n_labels)


def summary(epochs, seconds, active):
    best, last = max(epochs, key=lambda epoch: epoch["P@1"]), epochs[-1]
    decline = {name: 100 * (1 - last[name] / best[name]) if best[name] else 0.0 for name in METRICS}
    return {"best": best, "last": last, "decline": decline, "seconds": seconds, "active": active, "epochs": epochs}


class Dense:
    """A slide network's twin in PyTorch: every layer computed in full, every parameter stepped at every batch.

    Parameters
    ----------
    network : slide.Network
        Has the configuration, and the weights to start from.
    threads : int
    device : str
    """

    def __init__(self, network, threads, device):
        self.torch = torch = import_torch()
        torch.set_num_threads(threads)
        self.config, self.device = network.config, device
        if self.config.output.label_weights != "none":
            raise SystemExit("the dense network has no label weights; leave OutputConfig.label_weights at 'none'")
        self.weights, self.biases = [], []
        for weights, bias in parameters(network):
            self.weights.append(torch.tensor(weights, device=device, requires_grad=True))
            self.biases.append(torch.tensor(bias, device=device, requires_grad=True))
        rule = self.config.optimizer
        groups = [{"params": self.weights, "weight_decay": rule.weight_decay}, {"params": self.biases}]
        if rule.name == "adam":
            betas = rule.beta1, rule.beta2
            self.optimizer = torch.optim.AdamW(groups, rule.lr, betas, rule.eps, weight_decay=0.0, fused=True)
        elif rule.weight_decay:
            raise SystemExit("PyTorch's SGD has no decoupled weight decay; configure Adam, or no decay")
        else:
            self.optimizer = torch.optim.SGD(groups, rule.lr, fused=True)

    def step(self, batch, step, factor):
        """Take one optimizer step, number `step` from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.config.optimizer.lr
        self.optimizer.zero_grad()
        self.loss(batch, step).backward()
        if self.config.optimizer.clip_norm is not None:
            self.torch.nn.utils.clip_grad_norm_(self.weights + self.biases, self.config.optimizer.clip_norm)
        self.optimizer.step()

    def loss(self, batch, step):
        """The loss of a batch, summed over labels and averaged over the samples that have some."""
        torch, config = self.torch, self.config.output
        counts = np.diff(batch.label_ptr)
        has = np.flatnonzero(counts)
        rows = self._tensor(np.repeat(np.arange(len(has)), counts[has]))
        labels = self._tensor(batch.labels.astype(np.int64))
        counts = self._tensor(counts[has].astype(np.float32))
        hidden = self.hidden(batch, step)[self._tensor(has)]
        logits = torch.addmm(self.biases[-1], hidden, self.weights[-1].T)
        of_labels, smooth = logits[rows, labels], config.label_smoothing
        if config.loss == "bce":
            loss = torch.nn.functional.softplus(logits).sum() - (1 - smooth) * of_labels.sum()
            if smooth:
                loss = loss - smooth / 2 * logits.sum()
        else:
            total = counts if config.targets == "sum" else torch.ones_like(counts)
            loss = total @ torch.logsumexp(logits, 1) - (1 - smooth) * ((total / counts)[rows] @ of_labels)
            if smooth:
                loss = loss - smooth * (total @ logits.mean(1))
        return loss / max(1, len(has))

    def hidden(self, batch, step):
        """The last hidden layer's output."""
        torch, config = self.torch, self.config
        ptr, ids, values = self._features(batch, step)
        out = torch.nn.functional.embedding_bag(
            ids, self.weights[0], ptr, mode="sum", per_sample_weights=values, include_last_offset=True
        )
        out = out + self.biases[0]
        for i, layer in enumerate(config.hidden):
            if i:
                out = torch.addmm(self.biases[i], out, self.weights[i].T)
            if layer.activation == "relu":
                out = torch.relu(out)
            if layer.dropout:
                kept = np.ones((len(batch), layer.units), np.float32)
                drop_units(kept, layer.dropout, config.seed + i, step, 1)
                out = out * self._tensor(kept)
        return out

    def _features(self, batch, step):
        ptr, ids, values = batch.indptr, batch.indices, batch.values
        if self.config.input_dropout:
            ptr, ids, values = np.empty_like(ptr), np.empty_like(ids), np.empty_like(values)
            keys = (self.config.input_dropout, self.config.seed + len(self.config.hidden) + 1, step)
            kept = drop_entries(batch.indptr, batch.indices, batch.values, *keys, ptr, ids, values)
            ids, values = ids[:kept], values[:kept]
        return self._tensor(ptr), self._tensor(ids.astype(np.int64)), self._tensor(values)

    def _tensor(self, array):
        # A copy: a batch's arrays are used again for the next, and a device may still be reading.
        return self.torch.tensor(array, device=self.device)

    def wait(self):
        """Wait for what the device still has to do."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()

    def copy_to(self, network):
        """Set a slide network's weights to the present ones."""
        for (weights, bias), ours, our_bias in zip(parameters(network), self.weights, self.biases, strict=True):
            weights[...] = ours.detach().cpu().numpy()
            bias[...] = our_bias.detach().cpu().numpy()


def import_torch():
    try:
        import torch
    except ImportError:
        raise SystemExit("the dense network needs PyTorch: pip install torch, or use --skip-dense") from None
    return torch


def parameters(network):
    """Return writable views (weights, bias) of every layer: of the first [features, units], then [units, inputs]."""
    views = []
    for i, layer in enumerate(network.layers):
        if isinstance(layer, InputLayer):
            views.append((layer.table.weights, layer.bias[: layer.config.units]))
        else:
            views.append((layer.table.weights if i else layer.table.weights.T, layer.table.bias))
    return views


def ratios(runs):
    """Return the sampled network's metrics over the dense one's, both at their best epochs, seed by seed."""
    by_seed = groups(runs, ["seed"])
    pairs = [{run["network"]: run["best"] for run in pair} for pair in by_seed.values()]
    return {name: [p["sampled"][name] / p["dense"][name] for p in pairs if "dense" in p] for name in METRICS}


def markdown(runs):
    header = ["network", "active", "seconds"]
    header += [f"best {name}" for name in METRICS] + ["epoch"] + [f"last {name}" for name in METRICS]
    header += ["decline of P@1, %"]
    rows = []
    for (network,), some in groups(runs, ["network"]).items():
        best, last = [run["best"] for run in some], [run["last"] for run in some]
        row = [network, f"{np.mean([run['active'] for run in some]):,.0f}", spread([run["seconds"] for run in some])]
        row += [spread([one[name] for one in best], scale=100) for name in METRICS]
        row += [spread([one["epoch"] for one in best], digits=0)]
        row += [spread([one[name] for one in last], scale=100) for name in METRICS]
        rows.append([*row, spread([run["decline"]["P@1"] for run in some])])
    if len(rows) > 1:
        shares = [spread(share, scale=100, digits=1) + " %" for share in ratios(runs).values()]
        rows.append(["sampled / dense", "", "", *shares, "", *[""] * len(METRICS), ""])
    return table(header, rows)


if __name__ == "__main__":
    main()
