from slide.config import (
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from slide.estimator import SlideClassifier
from slide.lsh.families import HashFamily, PythonHasher, register_family
from slide.lsh.policies import Query, register_policy
from slide.network import Network
from slide.predict.mixture import Mixture
from slide.predict.neighbours import Neighbours
from slide.system.info import __version__, show_config
from slide.train.checkpoints import Checkpoints

__all__ = [
    "Checkpoints",
    "ConfigError",
    "HashFamily",
    "HiddenConfig",
    "LSHConfig",
    "Mixture",
    "Neighbours",
    "Network",
    "NetworkConfig",
    "OptimizerConfig",
    "OutputConfig",
    "PythonHasher",
    "Query",
    "RehashConfig",
    "RunConfig",
    "SamplingConfig",
    "SlideClassifier",
    "TrainingConfig",
    "__version__",
    "register_family",
    "register_policy",
    "show_config",
]
