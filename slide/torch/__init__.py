"""slide.torch: the sampled output layer as a PyTorch module, on the CPU.

`SampledLinear` takes the place of the last ``nn.Linear`` of a network with many labels, and of the cross-entropy behind
it; `RowAdam` steps the rows that a batch touched. It needs PyTorch (``pip install 'slide-xc[torch]'``), which nothing
else in this package imports.

The rooms::

    layer              SampledLinear: losses and prediction
    losses             SampledSoftmaxLoss: a layer's loss as a criterion
    optimizer          RowAdam; clipping of sparse gradients, and their average over processes
    parameters         parameters that are views of the kernels' rows: how they stay so, are saved and copied
    functions          what autograd is told: logits and losses of a batch's candidates
    engine             the rows, their candidates and their gradients, as arrays
    targets            labels in any form, as CSR
    double             the losses in PyTorch's own operations, in double precision
"""

from slide.system.extras import load_extra

load_extra("torch", "torch", "slide.torch")

from slide.torch.layer import SampledLinear, SampledLogits  # noqa: E402
from slide.torch.losses import SampledSoftmaxLoss  # noqa: E402
from slide.torch.optimizer import RowAdam, average_gradients, clip_grad_norm_  # noqa: E402

__all__ = [
    "RowAdam",
    "SampledLinear",
    "SampledLogits",
    "SampledSoftmaxLoss",
    "average_gradients",
    "clip_grad_norm_",
]
