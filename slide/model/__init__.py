"""The layers of a network, and one training step.

====================  ============================================================
`layers`              hidden layers: full or sampled, over the features or over a layer below
`shared_candidates`   the outputs that a whole batch computes: its labels, and draws from all; logQ correction
`output`              the output layer: candidates, loss, step
`footprint`           the memory that a network takes, computed before anything is allocated
`stack`               ``LayerStack``: the layers as one thing, with their optimizer and memory
`faults`              numbers that are not finite, or soon would not be: found and named
`stepper`             a batch's way through the layers, and each one's step
`initialization`      where training starts: vectors from elsewhere or from the data
`base`                ``BaseNetwork``: a stack and what takes its steps
====================  ============================================================
"""
