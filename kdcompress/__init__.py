"""kdcompress: distil a vision model, export it, and measure every file that ships."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# These packages report to their makers unless these are set when they load. A user's value stays.
for _variable, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}.items():
    os.environ.setdefault(_variable, _value)

if TYPE_CHECKING:
    from kdcompress.training.distillation import Distillation, Member

__all__ = ["Distillation", "Member", "__version__"]


def __getattr__(name: str) -> Any:
    """``kdcompress.Distillation`` and ``kdcompress.Member`` import torch, so they are imported when asked for."""
    if name in __all__:
        from kdcompress.training import distillation

        return getattr(distillation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
