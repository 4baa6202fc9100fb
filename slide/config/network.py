"""Settings of a network: hidden layers, the output layer, the optimizer."""

from dataclasses import dataclass, field

from slide.config.checks import (
    ConfigError,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_section,
    refuse,
)
from slide.config.tables import LSHConfig, RehashConfig, SamplingConfig, check_tables
from slide.kernels.rows import PRECISIONS


@dataclass(frozen=True)
class HiddenConfig:
    """A hidden layer.

    Parameters
    ----------
    units : int
    activation : str
        ``"relu"`` or ``"linear"``.
    candidates : str
        ``"full"``: every unit is computed. ``"lsh"``: a sample computes the units it finds in hash tables, and the
        others are zero.
    budget : int
        Mode ``"lsh"``: units a sample computes.
    lsh : LSHConfig
    rehash : RehashConfig
    sampling : SamplingConfig
        By default a sample that finds too few units computes random ones beside them.
    dropout : float
        Probability with which a training sample leaves a unit out, from 0 to below 1; the others' outputs are divided
        by 1 minus it, so that prediction, which leaves none out, needs no correction.
    """

    units: int = 256
    activation: str = "relu"
    candidates: str = "full"
    budget: int = 256
    lsh: LSHConfig = field(default_factory=LSHConfig)
    rehash: RehashConfig = field(default_factory=RehashConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(fill="uniform"))
    dropout: float = 0.2

    def __post_init__(self):
        """Check every field."""
        check_integer(self, "units", 1, 2**16)
        check_choice(self, "activation", ("relu", "linear"))
        check_choice(self, "candidates", ("full", "lsh"))
        check_integer(self, "budget", 1, 2**16)
        check_tables(self)
        check_number(self, "dropout", 0, 1, open_high=True)

    @property
    def uses_tables(self):
        """Whether samples look for units in hash tables."""
        return self.candidates == "lsh"

    @property
    def uses_own(self):
        """Whether samples compute units of their own."""
        return self.uses_tables


CANDIDATES = ("lsh", "lsh+tail", "lsh+inbatch", "inbatch", "uniform", "topk", "topk+tail", "full")


@dataclass(frozen=True)
class OutputConfig:
    """The output layer: which neurons a training sample computes, and its loss over them.

    Parameters
    ----------
    candidates : str
        ``"uniform"``: the sample's own labels, the labels of every sample of the batch, and draws from all neurons that
        the batch shares, which estimate all the rest: the default, for most data.
        ``"lsh+tail"``: those beside what the sample finds in hash tables: hard negatives, at the tables' cost, for
        labels that few draws would tell apart.
        ``"inbatch"``: only the labels of every sample of the batch, the cheapest: for many labels a sample.
        ``"lsh+inbatch"``: those beside what the sample finds in hash tables: where draws from all neurons find only
        easy ones.
        ``"lsh"``: the sample's own labels and what it finds in the hash tables alone: the paper's mode, to compare.
        ``"topk"``, ``"topk+tail"``: as ``"lsh"`` and ``"lsh+tail"``, with the neurons of highest logit, searched
        exhaustively, for those found in hash tables. They cost as much as ``"full"``: a yardstick of what better
        tables could gain.
        ``"full"``: every neuron: for outputs small enough, and the yardstick of all.
    correction : str
        ``"logq"``: a shared neuron that is no label of the sample, and that it did not find itself, stands for those
        that were not drawn. The softmax raises its logit by minus the logarithm of its probability of being drawn,
        which makes the estimate of the denominator unbiased; the logistic loss divides its term by that probability,
        which makes the estimate of the loss unbiased. ``"none"``: all active neurons count alike.
    budget : int
        Modes ``"lsh..."`` and ``"topk..."``: neurons a sample takes from the hash tables, or the exhaustive search, at
        most; its own labels count.
    tail : int
        Draws that the batch shares, in the modes ``"uniform"`` and ``"...+tail"``. Repeated ones count once.
    tail_power : float
        From 0 to 1: a neuron is drawn with a probability proportional to the number of training samples that have the
        label, at least a half, to this power. 0 draws uniformly, 1 by frequency: frequent labels, which take part in
        most mistakes, are then compared more often.
    share_labels : bool
        Whether the labels of the batch's other samples are active for all in the modes with a tail. Without them the
        loss does not compare a sample with labels that are in the batch merely because they are frequent.
    loss : str
        ``"bce"``: every label is a yes or no of its own, a binary cross-entropy each (one-vs-all); its biases start at
        the labels' log-odds in the training data. ``"softmax"``: cross-entropy of one distribution over all labels.
    targets : str
        Softmax only. ``"mean"``: a sample's labels share a target of 1 evenly. ``"sum"``: each has a target of 1, which
        weighs samples by their number of labels (pick-all-labels; Menon et al., NeurIPS 2019).
    label_smoothing : float
        From 0 to below 1. Softmax: this share of the target is spread over the active neurons in proportion to how
        many each stands for, which estimates spreading it evenly over all labels. Bce: yes and no are ``1 - s / 2`` and
        ``s / 2``, so that what a sample expects grows with the number of labels: of 46,000, ``s = 0.01`` makes the noes
        add up to 230 yeses. Use tiny values, some millionths for that many labels.
    label_weights : str
        ``"none"``, or ``"propensity"``: a label's target, or with bce its own term, is multiplied by its inverse
        propensity in the training data (Jain et al., KDD 2016), scaled to a mean of 1 over the labels' uses. It favours
        rare labels. `slide.train.loop.fit` takes other weights.
    lsh : LSHConfig
    rehash : RehashConfig
    sampling : SamplingConfig
        These three are of the hash tables, which the modes ``"lsh..."`` alone have.
    init : str
        What the neurons' weights are when training starts. ``"random"``: uniform. ``"mean"``: each label's are the mean
        of what its training samples give the layer then, minus that of all samples; see `slide.model.initialization.label_means`.
    init_scale : float
        Init ``"mean"``: the length of such a vector. A sample's hidden vector is about 0.7 long when training starts:
        by default its logits spread over a few units then.
    """

    candidates: str = "uniform"
    correction: str = "logq"
    budget: int = 256
    tail: int = 1024
    tail_power: float = 0.0
    share_labels: bool = True
    loss: str = "bce"
    targets: str = "mean"
    label_smoothing: float = 0.0
    label_weights: str = "none"
    lsh: LSHConfig = field(default_factory=LSHConfig)
    rehash: RehashConfig = field(default_factory=RehashConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    init: str = "random"
    init_scale: float = 4.0

    def __post_init__(self):
        """Check every field."""
        check_choice(self, "candidates", CANDIDATES)
        check_choice(self, "correction", ("logq", "none"))
        check_integer(self, "budget", 1, 2**24)
        check_integer(self, "tail", 1, 2**24)
        check_number(self, "tail_power", 0, 1)
        check_boolean(self, "share_labels")
        check_choice(self, "loss", ("softmax", "bce"))
        check_choice(self, "targets", ("mean", "sum"))
        check_number(self, "label_smoothing", 0, 1, open_high=True)
        check_choice(self, "label_weights", ("none", "propensity"))
        check_tables(self)
        check_choice(self, "init", ("random", "mean"))
        check_number(self, "init_scale", 0, 1e3, open_low=True)
        if self.candidates.endswith("inbatch") and not self.share_labels:
            raise ConfigError(
                f"OutputConfig.share_labels must be true where candidates is {self.candidates!r}: these candidates are "
                "the labels of the batch; 'lsh' and the modes with a tail do without them"
            )

    @property
    def uses_tables(self):
        """Whether samples look for neurons in hash tables."""
        return self.candidates.startswith("lsh")

    @property
    def uses_search(self):
        """Whether samples take the neurons of highest logit, searched exhaustively."""
        return self.candidates.startswith("topk")

    @property
    def uses_labels_of_batch(self):
        """Whether the labels of every sample are active for all."""
        return self.share_labels and (self.uses_tail or self.candidates.endswith("inbatch"))

    @property
    def uses_tail(self):
        """Whether draws from all neurons are active for all samples."""
        return self.candidates == "uniform" or self.candidates.endswith("+tail")

    @property
    def uses_shared(self):
        """Whether the samples of a batch share some neurons, labels or draws, that stand for others."""
        return self.uses_labels_of_batch or self.uses_tail

    @property
    def uses_own(self):
        """Whether samples compute neurons of their own, beside those that the batch shares or instead."""
        return self.uses_tables or self.uses_search or (self.uses_tail and not self.share_labels)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, applied to the rows a batch touches.

    Parameters
    ----------
    name : str
        ``"adam"``; ``"sgd"``, which keeps nothing beside the weights; or ``"adagrad"``, row-wise: a row's learning rate
        is divided by the root of the sum, over the steps that touched it, of its gradients' mean squares, one number a
        row. It takes a third of Adam's memory and wants learning rates some ten times as high.
    lr : float
        Learning rate.
    beta1, beta2 : float
        Adam only.
    eps : float
        Adam and Adagrad only: what is added to the root.
    lazy : str
        Adam only: what becomes of a row at the steps that do not touch it. ``"exact"``: before it is next read it
        catches up with all that dense Adam, given zero gradients, would have done to it meanwhile. ``"decay"``: its
        moments decay for the steps it missed, but its weights do not move. ``"sparse"``: it stays as it is.
    weight_decay : float
        Decoupled from the gradient: every step also multiplies the weights by ``1 - lr * weight_decay``. A row that a
        step does not touch owes it the factor, and pays before it is next read, whatever `lazy` says. Biases do not
        decay.
    clip_norm : float, optional
        Scale a batch's gradient down to this Euclidean norm, over all parameters, where it is larger. The backward pass
        then runs twice. By default gradients are taken as they are.
    """

    name: str = "adam"
    lr: float = 8e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    lazy: str = "exact"
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        """Check every field."""
        check_choice(self, "name", ("adam", "sgd", "adagrad"))
        check_number(self, "lr", 0, 1e3, open_low=True)
        check_number(self, "beta1", 0, 1, open_high=True)
        check_number(self, "beta2", 0, 1, open_high=True)
        check_number(self, "eps", 0, 1, open_low=True)
        check_choice(self, "lazy", ("exact", "decay", "sparse"))
        check_number(self, "weight_decay", 0, 1e3)
        check_number(self, "clip_norm", 0, 1e30, open_low=True, optional=True)
        if self.lr * self.weight_decay >= 1:
            raise ConfigError(
                f"OptimizerConfig.lr times weight_decay must be below 1, got {self.lr:g} times {self.weight_decay:g}"
            )


UPDATES = ("grouped", "hogwild")
HUGEPAGES = ("auto", "off", "require", "hugetlb")


@dataclass(frozen=True)
class NetworkConfig:
    """A network, but for its numbers of features and labels, which the data has.

    Parameters
    ----------
    hidden : HiddenConfig or sequence of HiddenConfig
        From the features upward, one or more; kept as a tuple.
    output : OutputConfig
    optimizer : OptimizerConfig
    normalize : bool
        Scale every sample's features to unit Euclidean length first.
    feature_weights : str
        What multiplies the features before that, in training and prediction: ``"none"``, or ``"idf"``, the features'
        inverse document frequency ``log((1 + samples) / (1 + samples that have it)) + 1`` in the data that training
        starts on.
    input_dropout : float
        Probability with which a training sample leaves a feature out, from 0 to below 1; the others, already scaled to
        unit length, are divided by 1 minus it.
    precision : str
        What weights and the optimizer's moments are stored as; arithmetic is float32 in any case, as are biases.
        ``"fp32"``: both float32. ``"bf16"``: both bfloat16, which has float32's range and eight binary digits: half the
        memory. What training writes is rounded up or down at random, right on average, by draws that depend on the row,
        the column and the step alone. ``"bf16-moments"``: weights float32, moments bfloat16: with Adam two thirds.
    seed : int
        Of the initial weights, the hash functions, the sampling, the dropout and the shuffling.
    hugepages : str
        ``"auto"``: ask the kernel for 2 MiB pages for large buffers, and do without where it gives none. ``"off"``: use
        4 KiB pages. ``"require"``: refuse to make a network whose parameters are not in 2 MiB pages, all of them.
        ``"hugetlb"``: take reserved 2 MiB pages where the system's pool has enough left, else as ``"auto"``. True and
        False stand for the first two.
    update : str
        How the rows that samples read on their own - features, and neurons from hash tables - get their gradients.
        ``"grouped"``: one thread makes each row's, from all samples that read it, and the weights are the same to the
        bit at any number of threads. ``"hogwild"``, the paper's way, to compare: every thread takes samples and adds to
        the gradients of their rows without locks, so that where two threads meet a term may be lost; the gradients take
        memory of their own, as much as the weights without moments. What the batch shares is computed by matrix
        products either way.
    """

    hidden: tuple[HiddenConfig, ...] = (HiddenConfig(),)
    output: OutputConfig = field(default_factory=OutputConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    normalize: bool = True
    feature_weights: str = "none"
    input_dropout: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    hugepages: str = "auto"
    update: str = "grouped"

    def __post_init__(self):
        """Check every field."""
        hidden = (self.hidden,) if isinstance(self.hidden, HiddenConfig) else self.hidden
        if not isinstance(hidden, (tuple, list)) or not hidden or not all(isinstance(h, HiddenConfig) for h in hidden):
            refuse(self, "hidden", "a HiddenConfig or a sequence of one or more")
        object.__setattr__(self, "hidden", tuple(hidden))
        check_section(self, "output", OutputConfig)
        check_section(self, "optimizer", OptimizerConfig)
        check_boolean(self, "normalize")
        check_choice(self, "feature_weights", ("none", "idf"))
        check_number(self, "input_dropout", 0, 1, open_high=True)
        check_choice(self, "precision", PRECISIONS)
        check_integer(self, "seed", 0, 2**63 - 1)
        if isinstance(self.hugepages, bool):
            object.__setattr__(self, "hugepages", "auto" if self.hugepages else "off")
        check_choice(self, "hugepages", HUGEPAGES)
        check_choice(self, "update", UPDATES)
        if self.update == "hogwild" and self.hidden[0].uses_tables:
            raise ConfigError(
                "NetworkConfig.update must be 'grouped' where the first hidden layer's candidates are 'lsh': a unit's "
                "row there has a weight for every feature, and its gradient alone is cheap to keep. Layers above may "
                "be sampled"
            )
        if self.update == "hogwild" and self.precision != "fp32":
            raise ConfigError(
                f"NetworkConfig.precision must be 'fp32' where update is 'hogwild', got {self.precision!r}: only "
                "grouped rows are read and stepped in half the bytes. Choose update 'grouped' to save memory"
            )
