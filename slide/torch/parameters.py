"""A module whose parameters are views of the kernels' rows, also after they are moved, loaded, copied or tied."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from slide.config import OutputConfig
from slide.kernels.rows import RowTable
from slide.predict.indexes import SearchIndexes
from slide.system.memory import check_fit
from slide.torch.engine import Engine

HALF = (torch.float16, torch.bfloat16)


class RowParameter(nn.Parameter):
    """A parameter whose rows have gaps between them.

    PyTorch adds a sparse tensor to such a tensor row by row, in threads that do not know of ``no_grad``: these refuse
    to write to a tensor that requires a gradient. So the same memory is written through a tensor that requires none.
    """

    def add_(self, other: Any, *, alpha: Any = 1) -> torch.Tensor:
        """See ``torch.Tensor.add_``."""
        if isinstance(other, torch.Tensor) and other.is_sparse and not torch.is_grad_enabled():
            self.detach().add_(other, alpha=alpha)
            return self
        return super().add_(other, alpha=alpha)


class RowModule(nn.Module):
    """A matrix of rows, and a bias for each, in the memory that the kernels read.

    It is the lower half of `slide.torch.SampledLinear`, which has the parameters and attributes.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        n_labels: int,
        config: OutputConfig,
        *,
        bias: bool,
        seed: int,
        hugepages: bool | str,
        threads: int | None,
    ):
        super().__init__()
        self.in_features, self.n_labels, self.config = in_features, n_labels, config
        self.seed, self.hugepages, self.threads = seed, hugepages, threads
        self.passes = 0
        self._counts: np.ndarray | None = None
        self._counted, self._count_again = 0, 1
        check_fit({"output weights": RowTable.bytes_needed(n_labels, in_features, 0)}, str(hugepages))
        self._start_engine(bias)
        weight, of_bias = self._views()
        self.weight = RowParameter(weight)
        self.register_parameter("bias", RowParameter(of_bias) if bias else None)
        self._watch()

    def _start_engine(self, biased):
        options = {"biased": biased, "seed": self.seed, "hugepages": self.hugepages, "threads": self._threads}
        self._engine = Engine(self.n_labels, self.in_features, self.config, **options)
        self._search = SearchIndexes()

    def reset_parameters(self) -> None:
        """Draw new weights, distributed like those of ``nn.Linear``; biases become 0."""
        self._ready()
        self.settle()
        table = self._engine.table
        table.fill_uniform(self.in_features**-0.5, self.seed, self._threads)
        table.bias[:] = 0
        self._changed()

    @property
    def _threads(self):
        return self.threads or torch.get_num_threads()

    def _views(self):
        table = self._engine.table
        return torch.from_numpy(table.weights), torch.from_numpy(table.bias)

    @property
    def _in_double(self):
        return self.weight.dtype == torch.float64

    def _ready(self):
        """Make the parameters views of the kernels' rows again, if they are not, and notice changes to them."""
        if self._in_double:
            return
        for parameter, view in zip((self.weight, self.bias), self._views(), strict=True):
            if parameter is not None and not _same_memory(parameter, view):
                self._adopt(parameter, view)
        versions = self._versions()
        if versions != self._seen:
            self._changed()

    def _adopt(self, parameter, view):
        """Copy a parameter that is elsewhere in memory into its rows, and make it a view of them."""
        if not isinstance(parameter, nn.Parameter):
            raise ValueError(
                "SampledLinear's weight and bias must be parameters of their own: tensors that functional_call, "
                "parametrizations or others put in their place would never reach the rows that the kernels read"
            )
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or parameter.is_shared():
            raise ValueError(
                f"SampledLinear's parameters must be float32 on the CPU, not shared with other processes, got "
                f"{parameter.dtype} on {parameter.device}"
            )
        if parameter.shape != view.shape:
            raise ValueError(f"SampledLinear's parameter must be {list(view.shape)}, got {list(parameter.shape)}")
        self.settle()
        with torch.no_grad():
            view.copy_(parameter)
        parameter.data = view
        if type(parameter) is nn.Parameter:
            parameter.__class__ = RowParameter
        self._changed()

    def _versions(self):
        return tuple(0 if parameter is None else parameter._version for parameter in (self.weight, self.bias))

    def _watch(self):
        self._seen = self._versions()

    def _changed(self):
        """Record that rows were changed by something other than the kernels."""
        self._watch()
        self._engine.weights_version += 1
        if self._engine.output.index is not None:
            self._engine.output.index.forget()

    def _optimize(self, config):
        """Start the optimizer that steps rows in place; `RowAdam` calls it."""
        if self._in_double:
            raise ValueError("rows in double precision serve to check gradients, not to be stepped: call float()")
        self._ready()
        check_fit({"output weights": RowTable.bytes_needed(self.n_labels, self.in_features, 2)}, str(self.hugepages))
        self._engine.optimize(config, self._threads)
        for parameter, view in zip((self.weight, self.bias), self._views(), strict=True):
            if parameter is not None:
                parameter.data = view
        self._changed()

    def _stepped(self):
        """Record that the kernels changed the rows."""
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                torch.autograd.graph.increment_version(parameter)
        self._watch()
        self._engine.weights_version += 1

    def catch_up(self, labels: torch.Tensor) -> None:
        """Let the rows of some labels catch up with the steps that skipped them; see ``settle``.

        Parameters
        ----------
        labels : int tensor
            Label ids, in any order.
        """
        self._ready()
        self._engine.catch_up(torch.unique(labels).numpy(), self._threads)

    def settle(self) -> None:
        """Let all rows catch up with the steps that skipped them.

        Such rows exist only with ``RowAdam(lazy="exact")`` or weight decay. The layer's own methods call this where
        they must; call it before you read ``weight`` or ``bias`` yourself.
        """
        self._engine.settle(self._threads)

    def _apply(self, fn, recurse=True):
        """Follow ``to``, ``float``, ``double`` and so on as far as rows can; half precision changes nothing here."""
        probe = fn(torch.empty(0))
        if probe.device.type != "cpu" or probe.is_shared():
            raise RuntimeError(
                "SampledLinear's rows stay in this process's memory, on the CPU: move only the layers before it, and "
                "give it hidden.cpu()"
            )
        if probe.dtype in HALF:
            return self
        self.settle()
        super()._apply(fn, recurse)
        self._ready()
        return self

    # Saved and copied.

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """Save copies of the parameters, without the gaps between rows."""
        self._ready()
        self.settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            for name in ("weight", "bias"):
                if destination.get(prefix + name) is not None:
                    destination[prefix + name] = destination[prefix + name].clone(memory_format=torch.contiguous_format)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, *rest):
        """Load parameters, also those of ``nn.Linear``: the counts of passes and labels may be missing."""
        self._ready()
        self.settle()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *rest)
        extra = prefix + "_extra_state"
        if extra in missing_keys:
            missing_keys.remove(extra)
        if self._engine.output.index is not None:
            self._engine.output.index.reset()
        self._ready()

    def get_extra_state(self) -> torch.Tensor:
        """Return what is saved beside the parameters: passes, and frequencies or counts of labels.

        Returns
        -------
        float64 tensor [4] or [4 + n_labels]
            Passes; samples counted; number of samples at which the counts are used next; number of samples that
            frequencies were set for. Then these frequencies or, where that number is 0, the counts.
        """
        known, samples = self._engine.output.label_frequency or ((), 0.0)
        if self._count_again:
            known, samples = () if self._counts is None else self._counts, 0.0
        numbers = [self.passes, self._counted, self._count_again, samples]
        return torch.from_numpy(np.concatenate([numbers, known]).astype(np.float64))

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Restore what ``get_extra_state`` returned."""
        (passes, counted, again, samples), known = state[:4].tolist(), state[4:].numpy()
        self.passes, self._counted, self._count_again = int(passes), int(counted), int(again)
        self._counts = None
        if samples:
            self._engine.output.set_label_frequency(known, samples=samples, start_biases=False)
        elif len(known):
            self._counts = known.astype(np.int64)
            self._take_counts()

    def _take_counts(self):
        """Use the counts so far as the frequencies of the labels."""
        frequency = self._counts / max(1, self._counted)
        self._engine.output.set_label_frequency(frequency, samples=max(1, self._counted), start_biases=False)

    def __getstate__(self) -> dict:
        """Pickle and copy the layer without the memory that parameters are views of."""
        self._ready()
        self.settle()
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_engine", "_search", "_seen")}
        return {**kept, "_saved": self.get_extra_state()}

    def __setstate__(self, state: dict) -> None:
        """Allocate memory, and make the parameters views of it."""
        saved = state.pop("_saved")
        super().__setstate__(state)
        self._start_engine(self.bias is not None)
        self._seen = None
        self._ready()
        self._watch()
        self.set_extra_state(saved)

    # Beside other modules.

    def to_linear(self) -> nn.Linear:
        """Return a linear layer with copies of the weights and biases."""
        self._ready()
        self.settle()
        linear = nn.utils.skip_init(
            nn.Linear, self.in_features, self.n_labels, bias=self.bias is not None, dtype=self.weight.dtype
        )
        with torch.no_grad():
            linear.weight.copy_(self.weight)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear.requires_grad_(self.weight.requires_grad)

    def tie(self, embedding: nn.Embedding) -> None:
        """Make an embedding of the labels use this layer's rows.

        The embedding's weight becomes this layer's. Its gradient is then the sum of both uses, and `RowAdam` steps each
        row once. With ``sparse=True`` in the embedding, the cost depends only on the rows that a batch touches. Rows
        catch up before the embedding reads them.

        Parameters
        ----------
        embedding : nn.Embedding
            An embedding with the same numbers of labels and dimensions.

        Raises
        ------
        ValueError
            The embedding has another shape, `max_norm` or `scale_grad_by_freq`.
        """
        if embedding.weight.shape != self.weight.shape:
            raise ValueError(
                f"the embedding has weights {list(embedding.weight.shape)}, but the layer {list(self.weight.shape)}; "
                "tied weights must have the same shape"
            )
        if embedding.max_norm is not None or embedding.scale_grad_by_freq:
            raise ValueError("a tied embedding cannot have max_norm or scale_grad_by_freq")
        embedding.weight = self.weight
        embedding.register_forward_pre_hook(_CatchUpFirst(self))


class _CatchUpFirst:
    """Lets the rows that an embedding is about to read catch up first."""

    def __init__(self, layer):
        self._layer = layer

    def __call__(self, embedding, arguments):
        if self._layer.weight is embedding.weight:
            self._layer.catch_up(arguments[0])


def _same_memory(one, other):
    return one.data_ptr() == other.data_ptr() and one.dtype == other.dtype and one.stride() == other.stride()
