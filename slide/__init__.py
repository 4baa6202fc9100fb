"""slide: neural networks with 100,000 to millions of outputs, trained and served on ordinary CPUs.

A re-creation of SLIDE (Chen et al., *SLIDE: In Defense of Smart Algorithms over Hardware Acceleration for Large-Scale
Deep Learning Systems*, MLSys 2020). A dense network multiplies every output for every sample; this one computes and
updates a few: the sample's labels, a small sample of all outputs that its batch shares and, if asked, the neurons that
it finds by hashing its hidden vector into locality-sensitive hash tables.

The house has two floors; imports run downward only::

    slide/               pure Python: what a user sees
      estimator.py       SlideClassifier: a network as a scikit-learn classifier
      labels.py          labels as users have them, and those of a network's outputs; features.py: features likewise
      scoring.py         scores of all labels, or a point's best, as logits or probabilities
      cli.py             the `slide` command; commands/ has a module for each, console.py shows what they do
      training.py        fit: epochs, shuffling, evaluation on the way, early stopping
      feed.py            what a run trains on and is measured on
      streaming.py       fit_stream: training on an iterator of blocks
      distributed/       training over MPI: ranks that have and train one network together
      callbacks.py       Callback: what is told how a run gets on, and may end it
      history.py         the history of a run as JSON lines; comparison.py a table of several, plots.py their curves
      tensorboard.py     the same for TensorBoard
      learning_rate.py   how the learning rate goes over a run
      stopping.py        which epoch was best, and when to stop waiting for a better one
      initial.py         where training starts: weights of the features, vectors from elsewhere or from the data
      faults.py          numbers that are not finite, or soon would not be: seen, named, and what a run does about them
      checkpoint.py      save and load, and the format's description; saved_checks.py: what is held against saved files
                         before they are believed; archive.py: a saved network as bytes, for pickles
      resume.py          checkpoints of a run, from which it goes on to the same bits; run_state.py: where a run stands
      shards.py          saved networks in shares, which several processes write and read
      npy.py             headers of arrays in files
      folders.py         folders and files that appear complete or not at all; interrupts.py: Ctrl-C and SIGTERM, noted
      exchange.py        safetensors files, and the output layer as a matrix for other libraries
      access.py          who uses an object: one thread that changes it, or any number that read it
      network.py         Network: owns its layers; train_batch, predict, evaluate
      stepper.py         a batch's way through the layers, and each one's optimiser step
      prediction.py      from points to their best labels, in every mode
      serving.py         a mode's quality and times beside the exact prediction's
      search.py          search indexes: prediction without scoring every label
      neighbours.py      Neighbours: the nearest training points, and their votes for labels
      mixture.py         Mixture: a network and neighbours, predicting together
      exclusions.py      labels that must not be predicted; allowed.py: those that alone may
      layers.py          hidden layers: full or sampled, from the features or from a layer below
      output.py          the output layer: candidates, logQ correction, loss
      hogwild.py         the pairs of a layer that trains without locks, as the paper does
      shared.py          the neurons a whole batch computes: its labels, and draws from all
      signals.py         what flows between layers, and the (sample, row) pairs of a layer
      storage.py         how parameter tables keep their rows: moments, precision
      index.py           NeuronIndex: hash functions and tables over a layer's rows
      optimizer.py       the rule of each step, and what rows owe for steps that skipped them
      schedule.py        when the tables are rebuilt
      diagnostics.py     how well an index finds what it should, and at what cost
      tuning.py          the settings of an index, from measurements
      families.py        hash families by name
      policies.py        sampling policies by name
      probability.py     how probable a neuron is to be sampled
      metrics.py         P@k, nDCG@k, PSP@k, R@k
      data/              readers, cache, folders that are mapped into memory, synthetic data, batches and their order
      config.py          frozen dataclasses, TOML; table_config.py those of hash tables; checks.py checks their fields,
                         settings.py makes them plain values; plain.py reads those of others, checked
      reference.py       configuration files of the authors' C++ program; reference_weights.py: what it saves
      buffers.py         named large memory
      footprint.py       what a network will take in memory, and whether it fits
      extras.py          packages that only some things need
      info.py            version, threads, instruction set, hugepages: what `slide info` tells of the machine
      hugepages/         the pages a system gives, what a process got, and what they are worth: `slide hugepages`
      blas.py            one thread for BLAS
      torch/             the output layer as a PyTorch module, and its optimiser; nothing else imports it
    slide/kernels/       compiled, without the GIL, knows only arrays
      memory             HugeBuffer: the one owner of large memory
      pagebench          rows gathered, scattered and streamed: what `slide hugepages bench` times
      parallel           threads and instruction set
      rows               RowTable: a layer's parameters, [header | w | m | v] a row; the row kernels' one compilation
      bfloat16           arrays of numbers that are stored as bfloat16
      hashing            SimHash, WTA, DWTA, MinHash
      tables             flat bucket tables
      sampling           vanilla, top-K and threshold sampling
      active             a batch's shared neurons, and where labels stand among them
      grouping           pairs grouped by row
      sparse             SpMM, SDDMM; where the samples' gradient is gathered
      sparse_input       SDDMM and the row step for samples that are sparse themselves
      dense              shared candidates, through BLAS
      search             top-k of all rows, exactly or by sketches of them, and of candidates
      sketch             rows in few dimensions of seven bits each
      neighbours         nearest sparse vectors through posting lists; the best labels of sparse scores
      losses             softmax and one-vs-all cross-entropy over the active set
      loss_parts         the same where neurons are in several places
      dropout            units and features left out in training
      optim              SGD, Adam and Adagrad on touched rows
      gradients          rows' gradients as arrays, and the step by them
      catch_up           rows that catch up with steps that skipped them
      hogwild            gradients that all threads add to at once, and the step on them
      text               the parser behind data/
      roofline           what the memory could do at best, to measure the others against
      simd/              the C row kernels, once per instruction set

The road of a batch: tables rebuilt if due (`index`) -> CSR rows -> hidden activations (`sparse.spmm`) -> bucket indices
(`hashing`) -> candidates, labels first (`sampling`) -> pairs grouped by row (`grouping.PairGroups`) -> logits
(`sparse.sddmm`, `dense.shared_logits`) -> loss and deltas (`losses`) -> gradient and optimiser step in one visit to
each row (`optim.step_groups`, `dense.shared_step`) -> the same for the rows of the features. Where skipped rows owe
something (`optimizer`), the kernel that is about to read them lets them pay first (`catch_up`).
"""

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slide.config import (
        ConfigError,
        HiddenConfig,
        LSHConfig,
        NetworkConfig,
        OptimizerConfig,
        OutputConfig,
        RehashConfig,
        RunConfig,
        SamplingConfig,
        TrainingConfig,
    )
    from slide.estimator import SlideClassifier
    from slide.lsh.families import HashFamily, PythonHasher, register_family
    from slide.lsh.policies import Query, register_policy
    from slide.network import Network
    from slide.predict.mixture import Mixture
    from slide.predict.neighbours import Neighbours
    from slide.system.info import __version__, show_config
    from slide.train.checkpoints import Checkpoints

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
        "LSHConfig",
        "NetworkConfig",
        "OptimizerConfig",
        "OutputConfig",
        "RehashConfig",
        "RunConfig",
        "SamplingConfig",
        "TrainingConfig",
    ),
    "estimator": ("SlideClassifier",),
    "lsh.families": ("HashFamily", "PythonHasher", "register_family"),
    "lsh.policies": ("Query", "register_policy"),
    "network": ("Network",),
    "predict.mixture": ("Mixture",),
    "predict.neighbours": ("Neighbours",),
    "system.info": ("__version__", "show_config"),
    "train.checkpoints": ("Checkpoints",),
}
"""The module that each public name is imported from when it is first asked for: SciPy takes a third of a second."""

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
