"""A list of runs of one's own: done once, by processes or by Ray, and shown in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import study

TWO = """
from bbfuse.config import ReportConfig, RunConfig, ValidationConfig

small = {"head": "none", "budget": 1500, "validation": ValidationConfig(images=20, times=2), "report": ReportConfig(images=50)}
CONFIGS = {name: RunConfig(chip_seed=chip, **small) for chip, name in enumerate(("first", "second"))}
"""


def summaries(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert study.main([*words, "--json"]) == 0
    found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.ray
def test_a_list_is_done_once_by_processes_or_by_ray_and_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TWO)
    found = []
    for words in ([], ["--ray-address", "local"]):
        place = tmp_path / str(len(words))
        place.mkdir()
        monkeypatch.chdir(place)
        found.append(summaries([str(file), *words], capsys))
        assert list(found[-1]) == ["first", "second"]
        assert summaries([str(file)], capsys) == found[-1]  # read, not done again: their seconds are the same
        assert len(list((place / "runs" / "mine").iterdir())) == 2
    for summary in (summary for both in found for summary in both.values()):
        del summary["seconds"]
    assert found[0] == found[1]
    assert study.main([str(file)]) == 0
    assert "second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"), [("", "must have CONFIGS"), ("CONFIGS = [3]", "must have CONFIGS"), (None, "is no file")]
)
def test_what_is_no_list_of_runs_is_refused_in_one_line(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    assert study.main([str(file)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
