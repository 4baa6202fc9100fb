"""Parameter rows: how they are stored, paired with the samples that read them, and stepped.

A layer is a table of rows, and a batch touches few of them. The rows are features in the first hidden layer, units or
labels in the others.

=============  ============================================================
`activations`  what flows between layers: a batch of vectors, dense, sparse or both; ragged arrays
`passes`       what a layer needs to know about a batch's pass through the layers
`pairs`        (sample, row) pairs, grouped by row: their logits and their step
`hogwild`      pairs that are stepped without locks, as the paper does
`storage`      how a table keeps its rows: moments, precision, memory
`optimizer`    the rule of each step, and how rows catch up with steps that skipped them
=============  ============================================================
"""
