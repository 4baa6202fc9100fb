"""One network on several ranks (MPI processes): communication, shards, replicas, checkpoints.

===============  ============================================================
`comm`           arrays between ranks, by MPI's names, counted; sums in the order of the ranks
`failures`       a rank that fails ends the job and says so
`grid`           where a rank stands, and which labels or features it has
`portions`       which samples a rank has, and the order in which they come
`parcels`        what a rank reads of a batch, on its way to the others
`shard_input`    the first hidden layer where its rows are cut into shards
`replicas`       how replicas of a shard stay alike
`shard_output`   a shard of the output layer, and losses over all shards
`stack`          ``RankStack``: the layers that one rank has
`topk`           the best labels of all shards; quality on the samples of all ranks
`feed`           batches, joined from what the ranks read, while others are trained on
`stepper`        a batch's way through the layers of all ranks
`checkpoints`    what all ranks save together, complete or not at all
`network`        ``DistributedNetwork``, and fit for a network of one process
===============  ============================================================

The ranks are a grid of `data_shards` by `label_shards`. A batch is cut into one part of samples per row of the grid,
the output layer into one shard of labels per column; hidden layers are everywhere. In a step travel the samples'
features and labels, a few numbers per sample for the loss, and the gradient with respect to the last hidden layer;
between the rows of the grid, the gradients of those rows of the output layer that the batch touched.

mpi4py (the extra ``mpi``) is imported in `comm` alone, and only when a network is made on ranks.
"""
