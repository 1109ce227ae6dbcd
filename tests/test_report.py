"""The report and the closing table on summaries at the edge of what may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bbfuse.config import RunConfig, to_dict
from bbfuse.console import LABELS, closing_table
from bbfuse.report import write_report


def summary(chips: int, clean: float, perturbed: float) -> dict[str, Any]:
    measured = perturbed > 0
    accuracy = {key: {"mean": perturbed, "sd": 0.01 * (chips > 1), "chips": chips} for key in LABELS.values()}
    return {
        "config": to_dict(RunConfig(chip_seed=0 if chips == 1 else None)),
        "accuracy": {"clean": clean, "clean_fused": clean, **accuracy},
        "recovered_points": 0.0,
        "lost_points": 100 * (clean - perturbed),
        "queries": {"images": 10, "requests": 1, "budget": 20, "cost": 0.5 if measured else None, "kept": 0},
        "energy": {"voltage": 0.8, "saving_bare": 0.36, "saving": -0.2 if measured else None, "saving_macs": None},
        "seconds": 1.0,
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("validations", [0, 1, 3])
@pytest.mark.parametrize(("chips", "clean", "perturbed"), [(1, 0.9, 0.5), (10, 0.9, 0.9), (1, 0.1, 0.0)])
def test_a_page_and_a_table_are_made(
    channels: int,
    validations: int,
    chips: int,
    clean: float,
    perturbed: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [{"step": j, "images": 10 * j + 5, "validation": 0.5} for j in range(validations)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    images = torch.zeros(2, channels, 8, 8)
    write_report(tmp_path, summary(chips, clean, perturbed), LABELS, images, images)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 + (validations > 0) + (perturbed > 0)
    assert "</html>" in page
    closing_table(summary(chips, clean, perturbed))
    table = capsys.readouterr().out
    assert all(label in table for label in LABELS)
    assert ("that cost 0.50" in table) == (perturbed > 0)
    assert "nan" not in table + page
