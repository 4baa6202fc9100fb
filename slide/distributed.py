"""Training over MPI: several processes, on one machine or many, that have and train one network together.

==================  ===================================================================
`network`           ``DistributedNetwork``, and ``fit`` for a network of one process
`config`            ``DistributionConfig``: the grid, and what travels
`grid`              where a rank stands, and which labels it has
`comm`              arrays between ranks, counted; sums in the order of the ranks
`shares`            which points a rank has, and the order in which they come
`feed`              batches, joined from what the ranks read, while others are trained on
`stepper`           a batch's way: hidden layers on all ranks, labels and points cut
`output`            the output layer's shard, and losses over all shards
`replicas`          how replicas of a shard stay alike
`prediction`        the best labels of all shards; quality on all ranks' points
`checkpoints`       what all ranks save together, complete or not at all
`failures`          a rank that fails ends the job and says so
==================  ===================================================================

The ranks are a grid of `data_shards` by `label_shards`. A batch is cut into as many parts of points as there are rows,
the output layer into as many shards of labels as there are columns; hidden layers are everywhere. What travels in a
step are the points' features and labels, a few numbers a point for the loss and the gradient with respect to the last
hidden layer; between rows of the grid the gradients of those rows of the output layer that the batch touched.

mpi4py (the extra ``mpi``) is imported here alone, and only when a network is made on ranks.
"""

from slide.config.distribution import DistributionConfig
from slide.ranks.network import DistributedNetwork, fit
from slide.ranks.shares import own_rows

__all__ = ["DistributedNetwork", "DistributionConfig", "fit", "own_rows"]
