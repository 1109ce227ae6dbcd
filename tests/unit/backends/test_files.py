"""A file is replaced as a whole or stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from backends.files import replacing, write_bytes, write_folder, write_text, write_torch


def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    write_torch(path, {"a": torch.ones(2)}, sync=True)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), rename(old, new))[1])
    write_torch(tmp_path / "file", 1, sync=True)
    write_text(tmp_path / "file", "without")
    assert done == ["sync", "rename", "rename"]


def test_a_folder_is_made_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    write_folder(path, {"a": b"1", "b": b"2"})
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {"a": b"1", "b": b"2"}
    assert path.stat().st_mode & 0o777 == 0o755
    with pytest.raises(OSError, match="not empty"):
        write_folder(path, {"c": b"3"})
    assert sorted(file.name for file in path.parent.iterdir()) == ["folder"]
