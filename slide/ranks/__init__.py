"""One network on several ranks (MPI processes): communication, shards, replicas, checkpoints.

===============  ============================================================
`comm`           arrays between ranks, under MPI's names; counts of bytes; sums in the order of the ranks
`failures`       a rank that fails ends the job and says so
`grid`           the place of a rank in the grid, and which labels or features it has
`portions`       which samples a rank has, and in which order
`parcels`        a rank's part of a batch, on its way to the others
`shard_input`    the first hidden layer where its rows are cut into shards
`replicas`       how replicas of a shard stay alike
`shard_output`   a shard of the output layer, and the loss over all shards
`stack`          ``RankStack``: the layers that one rank has
`topk`           the best labels of all shards; quality on the samples of all ranks
`feed`           batches, joined from the parts that the ranks read, during training on earlier ones
`stepper`        a batch's way through the layers of all ranks
`checkpoints`    saving by all ranks together, complete or not at all
`network`        ``DistributedNetwork``, and ``fit`` for a network of one process
===============  ============================================================

The ranks are a grid of `data_shards` by `label_shards`. A batch is cut into one part per row of the grid, and the
output layer into one shard of labels per column; every rank has the hidden layers. In each step, the ranks exchange the
features and labels of the samples, a few numbers per sample for the loss, and the gradient with respect to the last
hidden layer. Rows of the grid exchange gradients of the output layer, for the labels that the batch touched.

mpi4py (the extra ``mpi``) is imported in `comm` only, when a network is made on ranks.
"""
