"""The response cache: rows are found by image, chip and endpoint, complete after a kill, and not used for fresh queries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from backends.base import NOMINAL, Chip, InputError, TargetError
from bbfuse.querying.cache import ResponseCache
from bbfuse.querying.journal import Journal
from bbfuse.querying.ledger import Ledger
from tests.helpers.answering import Crowd, KilledError
from tests.helpers.documents.pages import ROOT

CHIP = Chip(0.1, 1)


def images(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 1, 2).contiguous()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseCache]:
    opened = ResponseCache(tmp_path / "store", "endpoint")
    yield opened
    opened.close()


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 1)), min_size=1, max_size=6),
    st.integers(1, 3),
)
@settings(max_examples=40)
def test_no_image_is_sent_twice_in_any_batch_and_responses_are_those_of_the_target(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[list[int], int]], in_flight: int
) -> None:
    kept, backend = ResponseCache(tmp_path_factory.mktemp("store"), "endpoint"), Crowd()
    ledger = Ledger(backend, 10**6, cache=kept, in_flight=in_flight)
    for values, chip in asked:
        answers = ledger.query(images(*map(float, values)), Chip(0.1, chip))
        assert answers.tolist() == [[2.0 * value + chip] * 2 for value in values]
    new, known = 0, set()
    for values, chip in asked:
        new += sum((value, chip) not in known for value in values)  # twice in one request is sent twice
        known |= {(value, chip) for value in values}
    assert ledger.images == backend.received == new
    assert ledger.kept == sum(len(values) for values, _ in asked) - new
    kept.close()


def test_responses_of_other_endpoints_chips_or_shapes_are_not_found(store: ResponseCache, tmp_path: Path) -> None:
    store.keep(store.keys(images(1.0), CHIP), torch.ones(1, 3))
    other = ResponseCache(tmp_path / "store", "another endpoint")
    for keys in (
        other.keys(images(1.0), CHIP), store.keys(images(1.0), NOMINAL), store.keys(images(1.0), Chip(0.1, 2)),
        store.keys(images(1.0000001), CHIP), store.keys(images(1.0).reshape(1, 2, 1, 1), CHIP),
    ):  # fmt: skip
        assert store.find(keys) == [None]
    other.close()
    (found,) = store.find(store.keys(images(1.0), CHIP))
    assert torch.equal(found, torch.ones(3))
    store.keep(store.keys(images(1.0), CHIP), torch.zeros(1, 3))
    assert torch.equal(store.find(store.keys(images(1.0), CHIP))[0], torch.ones(3))  # the first answer stays


def test_fresh_queries_and_targets_that_are_not_repeatable_do_not_use_the_cache(store: ResponseCache) -> None:
    backend = Crowd()
    ledger = Ledger(backend, 100, cache=store)
    ledger.query(images(1.0, 2.0), CHIP)
    ledger.query_all([(images(1.0), CHIP)], fresh=True)
    assert (backend.received, ledger.kept) == (3, 0)
    ledger.uses_cache = False
    ledger.query(images(1.0, 3.0), CHIP)
    assert store.find(store.keys(images(3.0), CHIP)) == [None]
    assert (backend.received, ledger.kept) == (5, 0)


def test_counts_of_a_killed_run_do_not_depend_on_later_rows_of_the_cache(tmp_path: Path) -> None:
    """The answers that the first process paid for are in the store when it is resumed; they count as sent all the same."""
    whole = Ledger(Crowd(), 100, cache=ResponseCache(tmp_path / "other", "endpoint"))
    asked = [images(1.0, 2.0), images(2.0, 3.0), images(1.0, 3.0), images(4.0)]
    expected = [whole.query(one, CHIP) for one in asked]
    assert whole.cache is not None
    whole.cache.close()
    for forgotten in (False, True):
        path, store = tmp_path / f"answers{forgotten}.jsonl", ResponseCache(tmp_path / f"store{forgotten}", "endpoint")
        journal, backend = Journal(path), Crowd(wrong=(4.0,))
        first = Ledger(backend, 100, journal, store)
        with pytest.raises(KilledError):
            [first.query(one, CHIP) for one in asked]
        journal.close()
        store.close()
        if forgotten:
            (tmp_path / "storeTrue" / "answers.db").unlink()
        journal, store, calm = Journal(path), ResponseCache(tmp_path / f"store{forgotten}", "endpoint"), Crowd()
        ledger = Ledger(calm, 100, journal, store)
        assert all(torch.equal(ledger.query(one, CHIP), answer) for one, answer in zip(asked, expected, strict=True))
        assert (ledger.images, ledger.kept, ledger.lost) == (whole.images, whole.kept, 1)
        assert calm.received == 1
        journal.close()
        store.close()


WRITER = """
import sys
from pathlib import Path
import torch
from backends.base import Chip
from bbfuse.querying.cache import ResponseCache

print("ready", flush=True)
sys.stdin.readline()
store = ResponseCache(Path(sys.argv[1]), "endpoint")
for number in range(30):
    images = torch.full((4, 1, 1, 2), float(number)) + torch.arange(4.0)[:, None, None, None] / 8
    keys = store.keys(images, Chip(0.1, 1))
    store.keep(keys, images.flatten(1))
    assert all(torch.equal(row, image.flatten()) for row, image in zip(store.find(keys), images))
store.close()
"""


def test_two_processes_use_one_folder_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as one, subprocess.Popen(
        command, text=True, cwd=ROOT, **pipes
    ) as two:  # fmt: skip
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0


def test_a_file_that_is_no_cache_or_incomplete_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "garbage", tmp_path / "file"):
        if folder.name == "garbage":
            folder.mkdir()
            (folder / "answers.db").write_bytes(b"garbage " * 1000)
        with pytest.raises(InputError, match=f"`remote.store` .*{folder.name} cannot be used") as error:
            ResponseCache(folder, "endpoint")
        assert "\n" not in str(error.value)
    store = ResponseCache(tmp_path / "torn", "endpoint")
    many = images(*torch.arange(2000.0).tolist())
    store.keep(store.keys(many, CHIP), many.flatten(1))
    store.close()
    database = tmp_path / "torn" / "answers.db"
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    with pytest.raises((InputError, TargetError), match="cannot be used"):
        ResponseCache(tmp_path / "torn", "endpoint").find(store.keys(many, CHIP))
