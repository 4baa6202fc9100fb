"""slide: neural networks with 100,000 to millions of outputs, trained and served on ordinary CPUs.

A re-creation of SLIDE (Chen et al., *SLIDE: In Defense of Smart Algorithms over Hardware Acceleration for Large-Scale
Deep Learning Systems*, MLSys 2020). A dense network computes every output for every sample. This one computes a few:
the sample's labels, a random sample of outputs that the batch shares and, optionally, neurons found by hashing.

The wings, from top to bottom. A file imports only from wings below its own and from its own wing, where no two files
import each other; ``lint-imports`` checks it::

    cli, commands/     the ``slide`` command, one module for each subcommand
    distributed        training over MPI: the public names of ranks/
    estimator/         SlideClassifier, a scikit-learn classifier
    reference/         the authors' C++ program: its settings and its weights
    network            Network: fit, predict, evaluate, save, load
    ranks/             one network on several ranks: communication, shards, replicas, checkpoints
    runs/              the history of a run: files, curves, comparison, progress bar, TensorBoard
    train/             the training loop: batches, callbacks, early stopping, checkpoints and resuming, streams
    torch/             the output layer as a PyTorch module, and its optimizer
    predict/           the k best labels, exactly or by an index; masks; probabilities; nearest neighbours
    persist/           saved networks: folders, shards, safetensors; every file is checked before it is used
    model/             LayerStack: hidden layers, output layer, loss; one training step; memory needed; faults
    lsh/               hash families, tables, sampling policies, rebuild schedule; diagnostics and tuning
    rows/              parameter rows: how they are stored, paired with samples, and stepped
    metrics            P@k, nDCG@k, PSP@k, R@k
    hugepages/         the pages that a system gives, and what they are worth: ``slide hugepages``
    config/            settings: frozen dataclasses, their checks, TOML
    data/              readers, folders mapped into memory, batches and their order, synthetic data
    system/            threads, BLAS, large buffers, memory limits
    files/             files and folders that appear complete or not at all; .npy; JSON fields
    kernels/           compiled, without the GIL; knows only arrays

Each wing's own docstring says what each of its files has. What is to come has its place:

- a sparse linear re-ranker and a memory of training samples: predict/ to score, train/ to learn, persist/ to keep,
  beside the hidden layers of model/;
- readers of text: data/;
- a recipe that chooses settings by the data: a wing of its own between train/ and network;
- recommendation, serving, Annif, Ray: faces beside estimator/, above network.

The road of a batch: rebuild tables if due (lsh.index) -> CSR rows (data.batches) -> hidden activations
(kernels.sparse) -> buckets (kernels.hashing) -> candidates, labels first (kernels.sampling) -> pairs grouped by row
(kernels.grouping) -> logits (kernels.sparse, kernels.dense) -> loss and its gradient (kernels.losses) -> gradient and
optimizer step in one visit to each row (kernels.optim) -> the same for the rows of the features. Rows that earlier
steps skipped catch up first (rows.optimizer, kernels.catch_up).
"""

import logging
from importlib import import_module
from importlib.util import find_spec

__all__ = [
    "Checkpoints",
    "ConfigError",
    "HashFamily",
    "HiddenConfig",
    "LSHConfig",
    "Mixture",
    "Neighbours",
    "Network",
    "NetworkConfig",
    "OptimizerConfig",
    "OutputConfig",
    "PythonHasher",
    "Query",
    "RehashConfig",
    "RunConfig",
    "SamplingConfig",
    "SlideClassifier",
    "TrainingConfig",
    "__version__",
    "register_family",
    "register_policy",
    "show_config",
]

_HOMES = {
    "config": (
        "ConfigError",
        "HiddenConfig",
        "NetworkConfig",
        "OptimizerConfig",
        "OutputConfig",
        "RehashConfig",
        "RunConfig",
        "SamplingConfig",
        "TrainingConfig",
    ),
    "estimator": ("SlideClassifier",),
    "lsh": ("HashFamily", "LSHConfig", "PythonHasher", "Query", "register_family", "register_policy"),
    "network": ("Network",),
    "predict.mixture": ("Mixture",),
    "predict.neighbours": ("Neighbours",),
    "system.info": ("__version__", "show_config"),
    "train.checkpoints": ("Checkpoints",),
}
"""The module that each public name is imported from when it is first asked for: SciPy takes a third of a second. Type
checkers read the names in ``__init__.pyi``."""

# A program that sets up no logging is told nothing; `slide.cli` shows the log on standard error.
logging.getLogger("slide").addHandler(logging.NullHandler())


def __getattr__(name):
    """Import a public name, or a module of the package, when it is first asked for."""
    for home, names in _HOMES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"slide.{home}"), name))
    if not name.startswith("_") and find_spec(f"slide.{name}"):
        return import_module(f"slide.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
