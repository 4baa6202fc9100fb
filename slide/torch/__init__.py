"""slide.torch: the sampled output layer as a PyTorch module, on the CPU.

`SampledLinear` replaces the last ``nn.Linear`` of a network with many labels together with its cross-entropy; `RowAdam`
steps the rows that a batch touched. Both need PyTorch (``pip install 'slide-xc[torch]'``), which nothing else in this
package imports.

The files::

    layer              SampledLinear: losses and prediction
    losses             SampledSoftmaxLoss: a layer's loss as a criterion
    optimizer          RowAdam; clipping of sparse gradients, and their average over processes
    parameters         parameters that are views of the kernels' rows, also after they are loaded, copied or tied
    functions          autograd functions: logits and losses of a batch's candidates
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
