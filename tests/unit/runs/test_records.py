"""The run folder: what was written is read, what was begun is taken back, what is torn is left out."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.base import InputError
from bbfuse.config.schema import RunConfig
from bbfuse.config.serialization import from_dict, to_dict
from bbfuse.runs.folder import RunFolder, events, settings, trained_parts

CONFIG = RunConfig(chip_seed=3, budget=777)


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_folder_begins_with_its_settings(tmp_path: Path) -> None:
    with contextlib.closing(RunFolder.create(tmp_path / "a" / "b", CONFIG)) as folder:
        assert folder.path == tmp_path / "a" / "b"
        assert {"config.json", "events.jsonl"} <= names(folder.path)
        assert (folder.load(), folder.start(), folder.summary()) == (None, None, None)
    assert settings(tmp_path / "a" / "b", "--init") == CONFIG
    text = (tmp_path / "a" / "b" / "config.json").read_text()
    assert text == json.dumps(to_dict(CONFIG), indent=2) + "\n"
    again, config = RunFolder.open(tmp_path / "a" / "b")
    again.close()
    assert config == CONFIG


def test_events_are_whole_lines_and_those_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    for step in (3, 7):
        folder.event({"step": step})
    folder.save({"step": 7, "tensor": torch.arange(5)})
    folder.event({"step": 8})
    assert events(folder.path) == [{"step": 3}, {"step": 7}, {"step": 8}]
    folder.close()
    with (tmp_path / "run" / "events.jsonl").open("a") as file:
        file.write('{"torn')
    assert events(folder.path) == [{"step": 3}, {"step": 7}, {"step": 8}]
    again, _ = RunFolder.open(folder.path)
    state = again.load()
    assert state is not None
    assert (state["step"], state["tensor"].tolist()) == (7, [0, 1, 2, 3, 4])
    again.event({"step": 9})
    again.close()
    assert events(folder.path) == [{"step": 3}, {"step": 7}, {"step": 9}]
    assert "checkpoint.new" not in names(folder.path)


def test_events_before_the_first_checkpoint_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.event({"step": 3})
    assert folder.load() is None
    folder.close()
    assert (folder.path / "events.jsonl").read_bytes() == b""


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with contextlib.closing(RunFolder.create(tmp_path / "run", CONFIG)) as folder:
        folder.write_start({"fuse": torch.arange(3)})
        start = folder.start()
        assert start is not None
        assert start["fuse"].tolist() == [0, 1, 2]
        assert folder.versions() == []
        folder.write_versions([{"a": "1.2"}, {"a": "1.3"}])
        assert folder.versions() == [{"a": "1.2"}, {"a": "1.3"}]
        assert (folder.path / "versions.json").read_text() == json.dumps([{"a": "1.2"}, {"a": "1.3"}], indent=2) + "\n"
        folder.write_summary({"a": 0.3})
        assert folder.summary() == {"a": 0.3}
        assert (folder.path / "summary.json").read_text() == '{\n  "a": 0.3\n}\n'
        assert [name for name in names(folder.path) if name.endswith(".new")] == []


@pytest.mark.parametrize("existed", [False, True])
def test_a_run_that_could_not_begin_is_taken_back(existed: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if existed:
        path.mkdir()
    folder = RunFolder.create(path, CONFIG)
    folder.write_start({})
    if existed:
        (path / "mine").touch()
    folder.discard()
    assert path.exists() == existed
    if existed:
        assert "mine" in names(path)
        assert not {"config.json", "events.jsonl", "start.pt"} & names(path)


def test_a_run_that_is_gone_on_with_is_not_taken_away(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG).close()
    folder, _ = RunFolder.open(tmp_path / "run")
    folder.discard()
    assert (tmp_path / "run").exists()


SAVED: dict[str, Any] = {"generator": "MLP", "image_shape": [1, 8, 8], "fuse": {}, "heads": {"kept": None}, "more": 3}


def test_what_was_learned_is_read_by_name(tmp_path: Path) -> None:
    with contextlib.closing(RunFolder.create(tmp_path / "run", CONFIG)) as folder:
        folder.write_fuse(SAVED)
        expected = {name: value for name, value in SAVED.items() if name != "more"}
        assert trained_parts(folder.path, "--init") == {**expected, "answers": None, "kept_parts": None}
        folder.write_fuse({**SAVED, "answers": "logits", "kept_parts": ["fuse"]})
        assert trained_parts(folder.path, "--init") == {**expected, "answers": "logits", "kept_parts": ["fuse"]}
        folder.write_fuse({"generator": "MLP"})
        with pytest.raises(InputError, match=r"^--init .*fuse\.pt lacks 'image_shape'$"):
            trained_parts(folder.path, "--init")
        for spoilt in (b"spoilt", b"", b"\x80", b"X\xff", b"h\x07", b"PK\x03\x04", b"J\x01"):
            (folder.path / "fuse.pt").write_bytes(spoilt)
            with pytest.raises(InputError, match=r"^--run .*fuse\.pt cannot be read: "):
                trained_parts(folder.path, "--run")
    with pytest.raises(InputError, match=r"^--init .* holds no fuse\.pt: give the folder of a run that has ended$"):
        trained_parts(tmp_path, "--init")


def test_settings_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"^--init .* holds no run that can be read: "):
        settings(tmp_path, "--init")


def test_why_a_file_cannot_be_read_is_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("word\n" * 100)

    with contextlib.closing(RunFolder.create(tmp_path / "run", CONFIG)) as folder:
        folder.save({"step": 3})
        monkeypatch.setattr(torch, "load", refuse)
        with pytest.raises(InputError) as error:
            folder.load()
    assert str(error.value) == f"{folder.path / 'checkpoint'} cannot be read: " + ("word " * 40)


def test_only_plain_tensors_are_unpickled(tmp_path: Path) -> None:
    with contextlib.closing(RunFolder.create(tmp_path / "run", CONFIG)) as folder:
        folder.save({"path": Path("a")})
        with pytest.raises(InputError, match=r"checkpoint cannot be read: "):
            folder.load()


@pytest.mark.parametrize(("error", "reason"), [(OSError(13, "Permission denied"), "Permission denied"), (OSError("odd"), "odd")])
def test_a_folder_that_cannot_be_written_is_refused_with_the_reason(
    error: OSError, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    RunFolder.create(tmp_path / "run", CONFIG).close()
    monkeypatch.setattr(RunFolder, "__init__", refuse)
    with pytest.raises(InputError) as begun:
        RunFolder.create(tmp_path / "new", CONFIG)
    assert str(begun.value) == f"`out` {tmp_path / 'new'} cannot be written: {reason}"
    with pytest.raises(InputError) as resumed:
        RunFolder.open(tmp_path / "run")
    assert str(resumed.value) == f"`resume` {tmp_path / 'run'} cannot be written: {reason}"


def test_trust_is_given_anew_and_never_comes_from_a_file(tmp_path: Path) -> None:
    plain = to_dict(RunConfig(trust=True))
    assert "trust" not in plain
    assert not from_dict(plain).trust
