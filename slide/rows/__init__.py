"""Parameter rows: how they are stored, paired with the samples that read them, and stepped.

A layer is a table of rows, of which a batch touches few: the rows are features in the first hidden layer, units or
labels in the others.

=============  ============================================================
`activations`  what flows between layers: vectors of a batch, dense, sparse or both; ragged arrays
`passes`       what a layer needs to know of the pass in which a batch goes through it
`pairs`        (sample, row) pairs, grouped by row: their logits and their step
`hogwild`      pairs that are stepped without locks, as the paper does
`storage`      how a table keeps its rows: moments, precision, memory
`optimizer`    the rule of each step, and how rows catch up with steps that skipped them
=============  ============================================================
"""
