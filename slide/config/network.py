"""Settings of a network: hidden layers, the output layer, the optimizer."""

from __future__ import annotations

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
    """Settings of a hidden layer.

    Parameters
    ----------
    units : int
        Number of units, by default 256.
    activation : str
        ``"relu"``, the default, or ``"linear"``.
    candidates : str
        ``"full"``, the default: every unit is computed. ``"lsh"``: a sample computes the units that it finds in hash
        tables, and the others are zero.
    budget : int
        Mode ``"lsh"``: number of units that a sample computes.
    lsh : LSHConfig
        Mode ``"lsh"``: the hash tables.
    rehash : RehashConfig
        Mode ``"lsh"``: when the tables are rebuilt.
    sampling : SamplingConfig
        Mode ``"lsh"``: which units a sample takes. By default it adds random units if it finds too few.
    dropout : float
        Probability with which a training sample leaves a unit out, from 0 to below 1, by default 0.2. The outputs of
        the other units are divided by 1 minus this probability, so that prediction, which uses all units, needs no
        correction.

    Raises
    ------
    ConfigError
        A field has a value that it may not have.
    """

    units: int = 256
    activation: str = "relu"
    candidates: str = "full"
    budget: int = 256
    lsh: LSHConfig = field(default_factory=LSHConfig)
    rehash: RehashConfig = field(default_factory=RehashConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(fill="uniform"))
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Check every field."""
        check_integer(self, "units", 1, 2**16)
        check_choice(self, "activation", ("relu", "linear"))
        check_choice(self, "candidates", ("full", "lsh"))
        check_integer(self, "budget", 1, 2**16)
        check_tables(self)
        check_number(self, "dropout", 0, 1, open_high=True)

    @property
    def uses_tables(self) -> bool:
        """Whether samples look for units in hash tables."""
        return self.candidates == "lsh"

    @property
    def uses_own(self) -> bool:
        """Whether samples compute units of their own."""
        return self.uses_tables


CANDIDATES = ("lsh", "lsh+tail", "lsh+inbatch", "inbatch", "uniform", "topk", "topk+tail", "full")


@dataclass(frozen=True)
class OutputConfig:
    """Settings of the output layer: which neurons a training sample computes, and its loss over them.

    Parameters
    ----------
    candidates : str
        The neurons that a training sample computes, always with its own labels among them.
        ``"uniform"``, the default, for most data: the labels of all samples of the batch, and random draws from all
        neurons, which stand for the rest. The batch shares both.
        ``"lsh+tail"``: as ``"uniform"``, and the neurons that the sample finds in hash tables. They are hard negatives,
        at the cost of the tables, for labels that a few draws would not tell apart.
        ``"inbatch"``, the cheapest: only the labels of all samples of the batch. For many labels per sample.
        ``"lsh+inbatch"``: as ``"inbatch"``, and the neurons that the sample finds in hash tables. For data where draws
        from all neurons find only easy negatives.
        ``"lsh"``, the paper's mode, to compare: only the neurons that the sample finds in hash tables.
        ``"topk"``, ``"topk+tail"``: as ``"lsh"`` and ``"lsh+tail"``, but with the neurons of highest logit, found by
        exhaustive search, in place of those from hash tables. They cost as much as ``"full"`` and show what better
        tables could gain.
        ``"full"``: every neuron. For small outputs, and to compare all other modes with.
    correction : str
        ``"logq"``, the default: a shared neuron stands for neurons that were not drawn, unless it is a label of the
        sample or the sample found it itself. With the softmax, minus the logarithm of the probability with which it is
        drawn is added to its logit, which makes the estimate of the denominator unbiased. With the logistic loss, its
        term is divided by that probability, which makes the estimate of the loss unbiased. ``"none"``: all active
        neurons count the same.
    budget : int
        Modes ``"lsh..."`` and ``"topk..."``: largest number of neurons that a sample takes from the hash tables or the
        exhaustive search, its own labels included.
    tail : int
        Modes ``"uniform"`` and ``"...+tail"``: number of draws that the batch shares. Repeated ones count once.
    tail_power : float
        Exponent from 0 to 1. The probability of drawing a neuron is proportional to the number of training samples that
        have the label (but no less than a half) to this power: 0, the default, draws uniformly, and 1 by frequency.
        With larger values, frequent labels, which take part in most mistakes, are compared more often.
    share_labels : bool
        Modes with a tail: whether the labels of each sample are active for all samples of the batch, by default True.
        If False, the loss does not compare a sample with labels that are in the batch only because they are frequent.
    loss : str
        ``"bce"``, the default: a binary cross-entropy for every label (one-vs-all), whose biases start at the labels'
        log-odds in the training data. ``"softmax"``: the cross-entropy of one distribution over all labels.
    targets : str
        Softmax only. ``"mean"``, the default: the labels of a sample share a target of 1 evenly. ``"sum"``: each label
        has a target of 1, which weighs samples by their number of labels (pick-all-labels; Menon et al., NeurIPS 2019).
    label_smoothing : float
        From 0, the default, to below 1. Softmax: this share of the target is spread over the active neurons, in
        proportion to how many neurons each stands for, which estimates spreading it evenly over all labels. Bce: the
        targets of labels that a sample has and has not are ``1 - s / 2`` and ``s / 2``, so the sum of a sample's
        targets grows with the number of labels: with 46,000 labels and ``s = 0.01``, those that it has not add up to
        230. Use tiny values, some millionths for that many labels.
    label_weights : str
        ``"none"``, the default, or ``"propensity"``: a label's target (with bce, its own term of the loss) is
        multiplied by its inverse propensity in the training data (Jain et al., KDD 2016), scaled to a mean of 1 over
        all uses of labels. This favours rare labels. `Network.fit` takes other weights.
    lsh : LSHConfig
        Modes ``"lsh..."``: the hash tables.
    rehash : RehashConfig
        Modes ``"lsh..."``: when the tables are rebuilt.
    sampling : SamplingConfig
        Modes ``"lsh..."``: which neurons a sample takes.
    init : str
        Weights of the neurons when training starts. ``"random"``, the default: uniform. ``"mean"``: the mean hidden
        vector of the label's training samples, minus the mean over all samples; see
        `slide.model.initialization.label_means`.
    init_scale : float
        Init ``"mean"``: length of these weight vectors. A sample's hidden vector is about 0.7 long when training
        starts, so with the default its logits then spread over a few units.

    Raises
    ------
    ConfigError
        A field has a value that it may not have, or `share_labels` is False in a mode ``"...inbatch"``.
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

    def __post_init__(self) -> None:
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
    def uses_tables(self) -> bool:
        """Whether samples look for neurons in hash tables."""
        return self.candidates.startswith("lsh")

    @property
    def uses_search(self) -> bool:
        """Whether samples take the neurons of highest logit, found by exhaustive search."""
        return self.candidates.startswith("topk")

    @property
    def uses_labels_of_batch(self) -> bool:
        """Whether the labels of each sample are active for all samples of the batch."""
        return self.share_labels and (self.uses_tail or self.candidates.endswith("inbatch"))

    @property
    def uses_tail(self) -> bool:
        """Whether draws from all neurons are active for all samples of the batch."""
        return self.candidates == "uniform" or self.candidates.endswith("+tail")

    @property
    def uses_shared(self) -> bool:
        """Whether the samples of a batch share active neurons, labels or draws, that stand for others."""
        return self.uses_labels_of_batch or self.uses_tail

    @property
    def uses_own(self) -> bool:
        """Whether samples compute neurons of their own, with or without neurons that the batch shares."""
        return self.uses_tables or self.uses_search or (self.uses_tail and not self.share_labels)


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer, which steps the rows that a batch touches.

    Parameters
    ----------
    name : str
        ``"adam"``, the default; ``"sgd"``, which keeps nothing but the weights; or ``"adagrad"``, row-wise, which keeps
        one number per row: the sum, over the steps that touched the row, of the mean square of its gradient. It divides
        the row's learning rate by the root of this sum, takes a third of Adam's memory and needs learning rates about
        ten times as high.
    lr : float
        Learning rate, by default 0.008.
    beta1, beta2 : float
        Adam only: decay rates of the two moments per step, by default 0.9 and 0.999.
    eps : float
        Adam and Adagrad only: number added to the root, by default 1e-8.
    lazy : str
        Adam only: how a row follows the steps that do not touch it. ``"exact"``, the default: before the row is next
        read it catches up with all that dense Adam would have done to it with zero gradients. ``"decay"``: its moments
        decay for the steps that it missed, but its weights do not move. ``"sparse"``: it stays as it is.
    weight_decay : float
        Weight decay decoupled from the gradient: every step also multiplies the weights by ``1 - lr * weight_decay``. A
        row that steps do not touch catches up with these factors before it is next read, whatever `lazy` is. Biases do
        not decay. By default 0.
    clip_norm : float, optional
        Largest Euclidean norm of a batch's gradient, over all parameters; a larger gradient is scaled down to it. The
        backward pass is then computed twice. By default gradients are not scaled.

    Raises
    ------
    ConfigError
        A field has a value that it may not have, or `lr` times `weight_decay` is 1 or more.
    """

    name: str = "adam"
    lr: float = 8e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    lazy: str = "exact"
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
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
    """Settings of a network; the data has the numbers of features and labels.

    Parameters
    ----------
    hidden : HiddenConfig or sequence of HiddenConfig
        One or more hidden layers, from the features upward, kept as a tuple. By default one layer.
    output : OutputConfig
        The output layer.
    optimizer : OptimizerConfig
        The optimizer.
    normalize : bool
        Scale the features of every sample to unit Euclidean length, by default True.
    feature_weights : str
        Factors of the features, applied before `normalize`, in training and prediction. ``"none"``, the default, or
        ``"idf"``: the feature's inverse document frequency
        ``log((1 + samples) / (1 + samples that have it)) + 1`` in the data that training starts on.
    input_dropout : float
        Probability with which a training sample leaves a feature out, from 0, the default, to below 1. The other
        features, already scaled to unit length, are divided by 1 minus this probability.
    precision : str
        Format in which weights and the optimizer's moments are stored. Arithmetic and biases are always float32.
        ``"fp32"``, the default: both float32. ``"bf16"``: both bfloat16, which has the range of float32 and eight
        binary digits, and takes half the memory; numbers that training writes are rounded up or down at random, right
        on average, by draws that depend only on the row, the column and the step. ``"bf16-moments"``: weights float32,
        moments bfloat16; with Adam, two thirds of the memory.
    seed : int
        Seed of the initial weights, the hash functions, the sampling, the dropout and the shuffling, by default 0.
    hugepages : str
        ``"auto"``, the default: ask the kernel for 2 MiB pages for large buffers, and use small pages if it gives none.
        ``"off"``: use 4 KiB pages. ``"require"``: refuse to make a network if not all its parameters are in 2 MiB
        pages. ``"hugetlb"``: take reserved 2 MiB pages if the system's pool has enough left, and do as ``"auto"`` if
        not. True stands for ``"auto"`` and False for ``"off"``.
    update : str
        How gradients are computed for rows that samples read on their own: features, and neurons from hash tables.
        ``"grouped"``, the default: one thread computes the gradient of each row from all samples that read it, and the
        weights are the same to the bit at any number of threads. ``"hogwild"``, the paper's way, to compare: every
        thread takes samples and adds to the gradients of their rows without locks, so that a term may be lost when two
        threads add at once; the gradients take as much extra memory as the weights without moments. Rows that the batch
        shares are computed by matrix products in both cases.

    Raises
    ------
    ConfigError
        A field has a value that it may not have, or ``"hogwild"`` is used with a sampled first hidden layer or with a
        precision other than ``"fp32"``.

    Examples
    --------
    >>> from slide import HiddenConfig, NetworkConfig
    >>> config = NetworkConfig(hidden=[HiddenConfig(units=512), HiddenConfig(units=128)], seed=1)
    >>> [layer.units for layer in config.hidden]
    [512, 128]
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

    def __post_init__(self) -> None:
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
                "row there has a weight for every feature, and hogwild would keep the gradients of all rows at once. "
                "Layers above may be sampled"
            )
        if self.update == "hogwild" and self.precision != "fp32":
            raise ConfigError(
                f"NetworkConfig.precision must be 'fp32' where update is 'hogwild', got {self.precision!r}: only "
                "grouped rows are read and stepped in half the bytes. Choose update 'grouped' to save memory"
            )
