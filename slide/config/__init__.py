"""Settings: frozen dataclasses, checked when they are made, read from and written to TOML.

A configuration says everything about a run but the data: give the same one, the same seed and the same data, and the
result is the same to the bit. Every field has a default that works; a wrong value is refused with a `ConfigError` that
names the field and what it may be.

==============  ============================================================
`network`       hidden layers, the output layer, the optimizer
`tables`        hash tables: functions, when they are rebuilt, how they are sampled
`training`      epochs, batches, the learning rate's schedule, early stopping
`distribution`  what each rank has, and what ranks exchange
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
