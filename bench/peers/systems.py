"""The systems that `speed.py` trains beside each other: one network, of one hidden layer, in each of them.

A system is made (not timed), then takes a step on the samples it is told, again and again, and copies its weights into
a slide network that can only predict whenever they are measured. All read batches through `slide.data.batches`.

PyTorch's sampled softmax is written for speed: one set of negatives for the whole batch, the rows of its labels and
negatives gathered into a small matrix that autograd sees, and Adam on these rows alone, put back by ``index_copy_``.
Gradients of the large matrices would be dense, and cost as much as the full softmax; ``torch.optim.SparseAdam`` sorts
and sums rows that here are already distinct. Its process starts with ``MALLOC_ENVIRONMENT``: else glibc gives the large
arrays of every step back to the kernel, whose page faults then cost the next step time; and it gets hugepages, as
slide's does.
"""

import math
from dataclasses import fields, replace

import numpy as np

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, SamplingConfig
from slide.model import initialization

MALLOC_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Keep what was freed; and ask for hugepages (glibc 2.35 or later)."""

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Unavailable(Exception):
    """The system cannot be measured here; the message says why."""


class System:
    """A network in training.

    Parameters
    ----------
    train : Dataset
    args : argparse.Namespace
        The options of `speed.py`.

    Attributes
    ----------
    network : slide.Network
        Has the weights after ``settle``.
    """

    environment: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, train, args):
        self.train, self.args = train, args
        self.config = NetworkConfig(HiddenConfig(args.units, dropout=0.0), seed=args.seed)

    def step(self, rows):
        """Train on the samples of these rows."""
        raise NotImplementedError

    def measured(self):
        """Return a slide network with the present weights."""
        raise NotImplementedError

    def frequency(self):
        """Share of the training samples that have each label."""
        return np.bincount(self.train.Y.indices, minlength=self.train.n_labels) / self.train.n_samples


class Slide(System):
    """This package in its default mode."""

    def __init__(self, train, args):
        super().__init__(train, args)
        config = self.configured(self.config)
        self.network = Network(train.n_features, train.n_labels, config, threads=args.threads)
        self.network.output.set_label_frequency(self.frequency(), samples=train.n_samples)
        initialization.start(self.network.layers, train)
        self.reader = self.network.reader(train.X, train.Y, args.batch_size)

    def configured(self, config):
        return replace(config, optimizer=replace(config.optimizer, lr=self.args.lr))

    def step(self, rows):
        self.network.train_batch(self.reader.read(rows))

    def measured(self):
        return self.network


class SlideBF16(Slide):
    """The default mode with parameters kept in 16 bits."""

    def configured(self, config):
        if "precision" not in {field.name for field in fields(NetworkConfig)}:
            raise Unavailable("this version of slide has no NetworkConfig.precision")
        return replace(super().configured(config), precision="bf16")


class SlideSampledSoftmax(Slide):
    """What PyTorch's sampled softmax computes, by slide: the labels of the batch and as many negatives, logQ."""

    def configured(self, config):
        output = OutputConfig(loss="softmax", tail=self.args.negatives)
        return replace(config, output=output, optimizer=replace(config.optimizer, lr=self.args.softmax_lr))


class SlidePaper(Slide):
    """The paper's mode: every sample computes its labels and what it finds in its hash tables, ``--active`` in all."""

    def configured(self, config):
        # Buckets of so many neurons that 50 hold what is asked for, while the neurons are spread evenly.
        k = max(1, round(math.log2(self.train.n_labels * 50 / self.args.active)))
        output = OutputConfig(
            candidates="lsh",
            correction="none",
            loss="softmax",
            budget=self.args.active,
            lsh=LSHConfig(k=k),
            sampling=SamplingConfig(fill="uniform"),
        )
        return replace(config, output=output, optimizer=replace(config.optimizer, lr=self.args.softmax_lr))


class Torch(System):
    """What both ways of training in PyTorch share."""

    environment = MALLOC_ENVIRONMENT

    def __init__(self, train, args):
        super().__init__(train, args)
        try:
            import torch
        except ImportError:
            raise Unavailable("PyTorch is not installed; it is in the extra peers") from None
        self.torch = torch
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        self.model = None
        network = Network(train.n_features, train.n_labels, self.config, threads=args.threads, trainable=False)
        self.reader = network.reader(train.X, train.Y, args.batch_size)
        self.steps = 0

    def uniform(self, n, limit):
        """A matrix of parameters, as slide's start."""
        return self.torch.empty(n, self.args.units).uniform_(-limit, limit)

    def tensors(self, batch):
        torch = self.torch
        counts = np.diff(batch.label_ptr)
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), counts))
        labels, share = torch.from_numpy(batch.labels.astype(np.int64)), np.repeat(1 / np.maximum(counts, 1), counts)
        features = [torch.from_numpy(array) for array in (batch.indices.astype(np.int64), batch.indptr, batch.values)]
        return features, rows, labels, torch.from_numpy(share.astype(np.float32))

    def layer(self, weights, ids, indptr, values):
        bag = self.torch.nn.functional.embedding_bag
        return bag(ids, weights, indptr, mode="sum", per_sample_weights=values, include_last_offset=True)

    def parameters(self):
        """The weights and bias of the hidden layer, and of the output."""
        raise NotImplementedError

    def measured(self):
        train = self.train
        network = Network(train.n_features, train.n_labels, self.config, threads=self.args.threads, trainable=False)
        weights, bias, out_weights, out_bias = (tensor.detach().numpy() for tensor in self.parameters())
        layer, output = network.hidden[0], network.output
        layer.table.weights[:], layer.bias[: self.args.units] = weights, bias.reshape(-1)
        output.table.weights[:], output.table.bias[:] = out_weights, out_bias.reshape(-1)
        return network


class TorchFull(Torch):
    """Full softmax: every output for every sample, and torch.optim's fused Adam."""

    def __init__(self, train, args):
        super().__init__(train, args)
        torch, units = self.torch, args.units
        start = [self.uniform(train.n_features, math.sqrt(3 / units)), torch.zeros(units)]
        start += [self.uniform(train.n_labels, 1 / math.sqrt(units)), torch.zeros(train.n_labels)]
        self.values = [tensor.requires_grad_() for tensor in start]
        self.optimizer = torch.optim.Adam(self.values, args.softmax_lr, fused=True)

    def parameters(self):
        return self.values

    def step(self, rows):
        torch = self.torch
        features, at, labels, share = self.tensors(self.reader.read(rows))
        weights, bias, out_weights, out_bias = self.values
        hidden = torch.relu(self.layer(weights, *features) + bias)
        logits = torch.addmm(out_bias, hidden, out_weights.T)
        loss = (torch.logsumexp(logits, 1).sum() - share @ logits[at, labels]) / len(rows)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class TorchSampled(Torch):
    """Sampled softmax: negatives that the batch shares, and its labels, logQ-corrected; Adam on their rows alone."""

    def __init__(self, train, args):
        super().__init__(train, args)
        torch, units = self.torch, args.units
        self.hidden = Rows(torch, self.uniform(train.n_features, math.sqrt(3 / units)))
        self.bias = Rows(torch, torch.zeros(1, units))
        self.output = Rows(torch, self.uniform(train.n_labels, 1 / math.sqrt(units)))
        self.output_bias = Rows(torch, torch.zeros(train.n_labels, 1))
        absent = np.log1p(-np.minimum(self.frequency(), 1 - 1e-12))
        self.log_absent = torch.from_numpy(absent.astype(np.float32))

    def parameters(self):
        return [rows.values for rows in (self.hidden, self.bias, self.output, self.output_bias)]

    def step(self, rows):
        torch, n = self.torch, len(rows)
        (ids, indptr, values), at, labels, share = self.tensors(self.reader.read(rows))
        used, ids = torch.unique(ids, return_inverse=True)
        hidden = torch.relu(self.layer(self.hidden.take(used), ids, indptr, values) + self.bias.take(self.first()))
        negatives = torch.randint(self.train.n_labels, (self.args.negatives,))
        shared, places = torch.unique(torch.cat([labels, negatives]), return_inverse=True)
        places = places[: len(labels)]
        drawn = self.args.negatives * math.log1p(-1 / self.train.n_labels)
        log_q = torch.log(-torch.expm1(n * self.log_absent[shared] + drawn))
        logits = torch.addmm(self.output_bias.take(shared).T - log_q, hidden, self.output.take(shared).T)
        # Whether a label of the sample's own is in was not left to chance.
        own = torch.zeros_like(logits)
        own[at, places] = log_q[places]
        logits = logits + own
        loss = (torch.logsumexp(logits, 1).sum() - share @ logits[at, places]) / n
        loss.backward()
        self.steps += 1
        for part in (self.hidden, self.bias, self.output, self.output_bias):
            part.step(self.args.softmax_lr, self.steps)

    def first(self):
        return self.torch.zeros(1, dtype=self.torch.int64)


class Rows:
    """A matrix of parameters, of which every step sees and changes a few rows, by Adam."""

    def __init__(self, torch, values):
        self.torch, self.values = torch, values
        self.m, self.v = torch.zeros_like(values), torch.zeros_like(values)

    def take(self, ids):
        self.ids, self.taken = ids, self.values.index_select(0, ids).requires_grad_()
        return self.taken

    def step(self, lr, step):
        gradient, ids = self.taken.grad, self.ids
        m = self.m.index_select(0, ids).lerp_(gradient, 1 - BETA1)
        v = self.v.index_select(0, ids).mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        self.m.index_copy_(0, ids, m)
        self.v.index_copy_(0, ids, v)
        root = v.div_(1 - BETA2**step).sqrt_().add_(EPS)
        values = self.taken.detach().addcdiv_(m, root, value=-lr / (1 - BETA1**step))
        self.values.index_copy_(0, ids, values)


class TensorFlowSampled(System):
    """``tf.nn.sampled_softmax_loss``, of one of each sample's labels, drawn anew at every step; Adagrad on the rows.

    The loss wants as many labels of every sample. Its Adam decays all moments
    at every step; Adagrad touches only the rows.
    """

    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"} | MALLOC_ENVIRONMENT

    def __init__(self, train, args):
        super().__init__(train, args)
        try:
            import tensorflow as tf
        except ImportError:
            raise Unavailable("TensorFlow is not installed") from None
        self.tf = tf
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.random.set_seed(args.seed)
        units = args.units
        network = Network(train.n_features, train.n_labels, self.config, threads=args.threads, trainable=False)
        self.reader = network.reader(train.X, train.Y, args.batch_size)
        shapes = [(train.n_features, units), (1, units), (train.n_labels, units), (train.n_labels,)]
        limits = [math.sqrt(3 / units), 0.0, 1 / math.sqrt(units), 0.0]
        self.values = [
            tf.Variable(tf.random.uniform(shape, -limit, limit) if limit else tf.zeros(shape))
            for shape, limit in zip(shapes, limits, strict=True)
        ]
        self.sums = [tf.Variable(tf.fill(shape, 0.1)) for shape in shapes]
        self.rng = np.random.default_rng(args.seed)
        kinds = [(tf.int64, [None]), (tf.int64, [None]), (tf.float32, [None]), (tf.int64, [None, 1])]
        self.compiled = tf.function(self.graph, input_signature=[tf.TensorSpec(s, t) for t, s in kinds])

    def graph(self, ids, at, values, labels):
        tf = self.tf
        weights, bias, out_weights, out_bias = self.values
        n = tf.shape(labels)[0]
        with tf.GradientTape() as tape:
            parts = tf.gather(weights, ids) * values[:, None]
            hidden = tf.nn.relu(tf.math.unsorted_segment_sum(parts, at, n) + tf.gather(bias, [0]))
            n_labels, negatives = self.train.n_labels, self.args.negatives
            drawn = tf.random.uniform_candidate_sampler(labels, 1, min(negatives, n_labels), True, n_labels)
            losses = tf.nn.sampled_softmax_loss(
                out_weights, out_bias, labels, hidden, negatives, n_labels, sampled_values=drawn
            )
            loss = tf.reduce_mean(losses)
        for variable, total, gradient in zip(self.values, self.sums, tape.gradient(loss, self.values), strict=True):
            used, places = tf.unique(tf.reshape(gradient.indices, [-1]))
            rows = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(used))
            tf.raw_ops.ResourceSparseApplyAdagradV2(
                var=variable.handle,
                accum=total.handle,
                lr=self.args.adagrad_lr,
                epsilon=1e-7,
                grad=rows,
                indices=used,
            )
        return loss

    def step(self, rows):
        batch = self.reader.read(rows)
        counts = np.diff(batch.label_ptr)
        has = np.flatnonzero(counts)
        labels = batch.labels[batch.label_ptr[has] + self.rng.integers(0, counts[has])].astype(np.int64)
        lengths = np.diff(batch.indptr)
        # Samples without labels go; the others close up.
        kept, place = np.repeat(counts > 0, lengths), np.cumsum(counts > 0) - 1
        at = np.repeat(place, lengths)[kept]
        self.compiled(batch.indices[kept].astype(np.int64), at, batch.values[kept], labels[:, None])

    def measured(self):
        train, threads = self.train, self.args.threads
        network = Network(train.n_features, train.n_labels, self.config, threads=threads, trainable=False)
        weights, bias, out_weights, out_bias = (variable.numpy() for variable in self.values)
        layer, output = network.hidden[0], network.output
        layer.table.weights[:], layer.bias[: self.args.units] = weights, bias.reshape(-1)
        output.table.weights[:], output.table.bias[:] = out_weights, out_bias
        return network


SYSTEMS = {
    "slide": Slide,
    "slide-bf16": SlideBF16,
    "slide-softmax": SlideSampledSoftmax,
    "slide-paper": SlidePaper,
    "torch-sampled": TorchSampled,
    "torch-full": TorchFull,
    "tf-sampled": TensorFlowSampled,
}
