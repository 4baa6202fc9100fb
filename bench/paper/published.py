"""The figures of Chen et al., SLIDE: In Defense of Smart Algorithms over Hardware Acceleration (MLSys 2020)."""

MACHINE = "44 cores; Delicious-200K (205,443 labels) or Amazon-670K (670,091), 128 hidden units"

HUGEPAGES = (
    ("dTLB load miss rate", "5.12 %", "0.25 %"),
    ("iTLB load miss rate", "56.12 %", "20.96 %"),
    ("cycles in page walks, dTLB", "7.74 %", "0.72 %"),
    ("cycles in page walks, iTLB", "0.02 %", "0.015 %"),
    ("RAM reads for dTLB misses", "3,062,039/s", "749,485/s"),
    ("RAM reads for iTLB misses", "12,060/s", "11,580/s"),
    ("page faults", "32,548/s", "26,527/s"),
)
"""Table 4: without and with transparent hugepages."""

SPEEDUP = "hugepages and SIMD together: about 1.3 times as fast, on both data sets (section 5.4)"

UTILISATION = {8: ("82 %", "45 %"), 16: ("81 %", "35 %"), 32: ("85 %", "32 %")}
"""Table 2, by threads: SLIDE, and TensorFlow on the same CPU."""

INEFFICIENCY = "waiting for memory is the largest inefficiency at any number of threads, less with more (figure 6)"
BATCHES = "SLIDE is ahead of TensorFlow on a GPU at 64, 128 and 256, and the gap widens with the batch (figure 8)"
SOFTMAX = (
    "a static sampled softmax needs about 20 % of the classes for any decent accuracy, SLIDE computes 0.5 %, and with "
    "them has the accuracy of the full softmax (figures 5 and 7)"
)
INSERTION = {"reservoir": ("0.371 s", "18 s"), "fifo": ("0.762 s", "18 s")}
"""Table 3: 205,443 neurons; insertion alone, and with hashing."""

POLICIES = "topk takes orders of magnitude longer than vanilla, threshold slightly longer (figure 12)"
