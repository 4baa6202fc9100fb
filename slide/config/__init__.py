"""Settings: frozen dataclasses, checked when they are made, read from and written to TOML.

A configuration says everything about a run except the data: the same configuration, seed and data give the same result
to the bit. Every field has a default that works. A wrong value is refused with a `ConfigError` that names the field and
the values that it may have.

==============  ============================================================
`network`       hidden layers, the output layer, the optimizer
`tables`        hash tables: hash functions, rebuild schedule, sampling policy
`training`      epochs, batches, the schedule of the learning rate, early stopping
`distribution`  the part of the network that each rank has, and what ranks exchange
`checks`        checks of single fields
`dicts`         configurations as nested dictionaries of plain values
==============  ============================================================
"""

from slide.config.checks import ConfigError
from slide.config.network import CANDIDATES, UPDATES, HiddenConfig, NetworkConfig, OptimizerConfig, OutputConfig
from slide.config.tables import LSHConfig, RehashConfig, SamplingConfig
from slide.config.training import FAULTS, MONITORS, SCHEDULES, RunConfig, TrainingConfig

__all__ = [
    "CANDIDATES",
    "FAULTS",
    "MONITORS",
    "SCHEDULES",
    "UPDATES",
    "ConfigError",
    "HiddenConfig",
    "LSHConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "OutputConfig",
    "RehashConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainingConfig",
]
