"""The layers of a network, and one training step.

====================  ============================================================
`layers`              hidden layers: full or sampled, over the features or over a layer below
`shared_candidates`   the neurons that all samples of a batch compute: labels and random draws; logQ correction
`output`              the output layer: candidates, loss, step
`footprint`           the memory that a network takes, computed before anything is allocated
`stack`               ``LayerStack``: all layers, with their optimizer and memory
`faults`              numbers that are not finite, or soon would not be: found and named
`stepper`             a batch's way through the layers, forward and backward, and the step of each layer
`initialization`      where training starts: vectors from elsewhere or from the data
`base`                ``BaseNetwork``: a stack, and the stepper that takes its training steps
====================  ============================================================
"""
