"""The summary of a run that never was, all of its numbers different, for what is drawn and printed of it."""

from __future__ import annotations

from typing import Any

from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import to_dict

__all__ = ["made_summary"]


def made_summary(chips: int = 3, head: str | None = None, saving: float | None = 0.137) -> dict[str, Any]:
    """One chip's (``chips`` 1) or the population's."""
    config = RunConfig(bit_error_rate=0.0375, chip_seed=29 if chips == 1 else None, head=head)  # type: ignore[arg-type]
    spread = {"perturbed": (0.412, 0.031), "perturbed_head": (0.583, 0.047), "perturbed_fuse": (0.647, 0.018),
              "perturbed_fused": (0.799, 0.026)}  # fmt: skip
    return {
        "config": {**to_dict(config), "head": config.head_name},
        "accuracy": {
            "clean": 0.931, "clean_fused": 0.917,
            **{key: {"mean": mean, "sd": sd if chips > 1 else 0.0, "chips": chips} for key, (mean, sd) in spread.items()},
        },
        "recovered_points": 38.7, "lost_points": 51.9,
        "queries": {"images": 18_453, "requests": 1_276, "budget": 20_500, "cost": None, "kept": 0},
        "energy": {"voltage": 0.837, "saving_bare": 0.336, "saving": saving, "saving_macs": 0.29},
        "trust": None, "target": None, "seconds": 83.6,
    }  # fmt: skip
