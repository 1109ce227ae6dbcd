"""How runs are executed: their folders, resuming, failures, and the progress that is shown."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from types import ModuleType
from typing import Any, ClassVar

import pytest
from rich.console import Console

from backends.base import InputError
from bbfuse.compare import executor, progress
from bbfuse.compare import tasks as tasks_module
from bbfuse.compare.tasks import Outcome, Task
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ValidationConfig
from bbfuse.config.serialization import to_dict

CONFIG = RunConfig(chip_seed=4, budget=1700, validation=ValidationConfig(times=3))


def test_a_run_is_named_by_what_differs_from_the_defaults(tmp_path: Path) -> None:
    changes = {"budget": 1700, "chip_seed": 4, "validation": {"times": 3}}
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()
    task = Task({"arm": "b", "chip": 4}, CONFIG)
    assert task.folder(tmp_path) == tmp_path / digest[:16]
    assert task.name == "b, 4"


def test_differences_go_into_sections() -> None:
    defaults = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}, "g": {"h": 5}}
    plain = {"a": 1, "b": {"c": 7, "d": {"e": 3, "f": 8}}, "g": {"h": 5}}
    assert tasks_module.differences(plain, defaults) == {"b": {"c": 7, "d": {"f": 8}}}
    assert tasks_module.differences({**defaults, "a": 9}, defaults) == {"a": 9}


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Settings that were executed; standard error is put back afterwards."""
    configs: list[RunConfig] = []
    nowhere = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(executor, "open", lambda name, mode: {(os.devnull, "w"): nowhere}[name, mode], raising=False)
    monkeypatch.setattr(executor, "execute", lambda config: configs.append(config) or {"done": len(configs)})
    return configs


def test_a_run_starts_resumes_or_is_refused_in_the_folder_of_another(
    executed: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task({}, CONFIG)
    assert executor.run_task(task, tmp_path / "new") == {"done": 1}
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text(json.dumps(to_dict(task.config)))
    assert executor.run_task(task, begun) == {"done": 2}
    assert executed == [replace(task.config, out=tmp_path / "new"), replace(RunConfig(), resume=begun, trust=True)]
    print("not heard", file=sys.stderr)
    (begun / "config.json").write_text(json.dumps(to_dict(replace(task.config, budget=1701))))
    with pytest.raises(InputError, match="begun with other defaults"):
        executor.run_task(task, begun)
    assert len(executed) == 2
    assert capsys.readouterr().err == ""


def test_as_many_compute_at_once_as_there_are_cores_or_one_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert [executor.process_count(devices) for devices in (["cpu"] * 3, ["cpu", "cuda"], ["cuda"], [])] == [7, 1, 1, 7]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert executor.process_count(["cpu"]) == 1


class Process(ThreadPoolExecutor):
    """A process that is a thread; all that were made, and which of them were shut down."""

    made: ClassVar[list[Process]] = []
    gone: ClassVar[list[Process]] = []

    def __init__(self, size: int, context: Any) -> None:
        assert (size, context.get_start_method()) == (1, "spawn")
        super().__init__(1)
        self.made.append(self)

    def shutdown(self, *given: Any, **known: Any) -> None:
        self.gone.append(self)
        super().shutdown(*given, **known)


def of_place(task: Task, folder: Path) -> dict[str, Any]:
    kind = task.labels["kind"]
    if kind == "dies":
        raise BrokenProcessPool("terminated abruptly")
    if kind == "fails":
        raise InputError("first line\n  the reason  \n")
    if kind == "empty":
        raise ValueError
    return {"queries": {"images": 1234}, "accuracy": {"perturbed_fused": {"mean": 0.8767}}}


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    monkeypatch.setattr(executor, "ProcessPoolExecutor", Process)
    monkeypatch.setattr(executor, "run_task", of_place)
    monkeypatch.setattr(progress, "_INTERVAL", 0.01)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(Process, "made", [])
    monkeypatch.setattr(Process, "gone", [])
    return Process


def test_a_run_that_fails_or_dies_stops_no_other(
    processes: type[Process], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("good", "dies", "fails", "good again", "empty", "[b]last")
    tasks = [Task({"kind": kind}, CONFIG) for kind in kinds]
    found = executor.outcomes(tasks, [tmp_path / kind for kind in kinds])
    assert [(outcome.summary is None, outcome.reason) for outcome in found] == [
        (False, ""), (True, "terminated abruptly"), (True, "the reason"), (False, ""), (True, "ValueError"), (False, "")
    ]  # fmt: skip
    assert len(processes.made) == 3  # two cores, and one in the place of that which died
    assert len(set(processes.gone)) == 2
    told = capsys.readouterr().err.splitlines()
    assert sorted(told) == sorted(
        [f"{name}: done 1,234 of 1,700 images sent, 87.7 % accuracy" for name in ("good", "good again", "[b]last")]
        + ["dies: failed: terminated abruptly", "fails: failed: the reason", "empty: failed: ValueError"]
    )
    with pytest.raises(ValueError, match="shorter"):
        executor.outcomes(tasks, [tmp_path])


def test_after_an_interrupt_no_more_runs_start(processes: type[Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[Task] = []
    may_end = Event()

    def slow(task: Task, folder: Path) -> dict[str, Any]:
        begun.append(task)
        may_end.wait(5)
        return of_place(task, folder)

    def cut(*_: object) -> None:
        Timer(0.2, may_end.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(executor, "run_task", slow)
    monkeypatch.setattr(executor, "wait_for", cut)
    tasks = [Task({"kind": str(place)}, CONFIG) for place in range(9)]
    with pytest.raises(KeyboardInterrupt):
        executor.outcomes(tasks, [tmp_path / str(place) for place in range(9)])
    assert len(begun) <= 2


def test_tasks_and_outcomes_are_immutable() -> None:
    assert all(vars(kind)["__dataclass_params__"].frozen for kind in (Task, Outcome))


def test_a_table_on_a_terminal_is_sorted_by_state(
    processes: type[Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[Any] = []
    terminal = Console(file=io.StringIO(), force_terminal=True, width=150)
    monkeypatch.setattr(progress, "Console", lambda stderr, highlight: terminal if (stderr, highlight) == (True, False) else None)

    class Live:
        def __init__(self, table: Any, console: Console, auto_refresh: bool, transient: bool) -> None:
            assert (console, auto_refresh, transient) == (terminal, False, True)
            shown.append(table)

        def __enter__(self) -> Live:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, table: Any, refresh: bool) -> None:
            assert refresh is True
            shown.append(table)

    monkeypatch.setattr(progress, "Live", Live)
    tasks = [Task({"kind": kind}, CONFIG) for kind in ("good", "fails", "last")]
    executor.outcomes(tasks, [tmp_path / str(n) for n in range(3)])
    assert [list(column.cells) for column in shown[-1].columns] == [
        ["fails", "good", "last"], ["failed: the reason", "done", "done"], ["0 of 1,700", "1,234 of 1,700", "1,234 of 1,700"],
        ["", "87.7", "87.7"],
    ]  # fmt: skip
    assert str(shown[-1].caption) == "3 of 3 ended"
    assert str(shown[0].caption) == "0 of 3 ended"
    assert terminal.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_row_of_the_progress_table_has_the_state_of_a_run(tmp_path: Path) -> None:
    task, future = Task({"name": "mine"}, CONFIG), Future[dict[str, Any]]()
    assert progress._row(future, task, tmp_path, 0) == ("mine", "waiting", "0 of 1,700", "")
    events = tmp_path / "events.jsonl"
    events.write_text('{"step": 1, "images": 640}\n{"step": 2, "images": 1280}\n{"st')
    assert progress._row(future, task, tmp_path, 0) == ("mine", "running", "1,280 of 1,700", "")
    assert progress._row(future, task, tmp_path, events.stat().st_mtime_ns)[1] == "waiting"
    future.set_result({"queries": {"images": 1450}, "accuracy": {"perturbed_fused": {"mean": 0.5}}})
    assert progress._row(future, task, tmp_path, 0) == ("mine", "done", "1,450 of 1,700", "50.0")


def test_the_images_sent_are_those_of_the_last_whole_event_within_the_tail(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert (progress._sent(tmp_path), progress._written(tmp_path)) == (0, 0)
    events.write_text('{"images": 5}\n')
    assert progress._sent(tmp_path) == 5
    last = '{"images": 7}\n'
    for fits, padding in ((True, 4096 - len(last)), (False, 4096 - len(last) + 1)):  # one byte too far is no number
        events.write_text("x" * 9000 + "\n" + '{"images": 7}' + " " * padding + "\n")
        assert progress._sent(tmp_path) == (7 if fits else 0)
    events.write_text('{"step": 5}\n')
    assert progress._sent(tmp_path) == 0


def test_a_reason_is_one_line_of_at_most_300_characters() -> None:
    future, cause = Future[dict[str, Any]](), ValueError("a\n " + "b" * 400)
    wrapped = RuntimeError("what Ray says")
    wrapped.cause = cause  # type: ignore[attr-defined]
    future.set_exception(wrapped)
    assert tasks_module.outcome_of(future) == Outcome(None, "b" * 300)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A Ray that computes at once; all calls that it got."""
    told: list[Any] = []
    module = ModuleType("ray")

    class Remote:
        def __init__(self, function: Any, **claims: Any) -> None:
            self.function, self.claims = function, claims

        def options(self, **claims: Any) -> Remote:
            return Remote(self.function, **claims)

        def remote(self, task: Task, folder: Path) -> Any:
            told.append((self.claims, folder))
            future = Future[dict[str, Any]]()
            future.set_result(self.function(task, folder))
            return type("Reference", (), {"future": lambda self: future})()

    def init(address: str, **known: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("cannot  connect\n" + "x" * 300)
        told.append((address, known))

    vars(module).update(remote=Remote, init=init, shutdown=lambda: told.append("shut down"))
    monkeypatch.setitem(sys.modules, "ray", module)
    return told


def test_ray_gets_the_resources_of_each_run(ray: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(executor, "run_task", of_place)
    tasks = [Task({"kind": "good"}, replace(CONFIG, threads=3)), Task({"kind": "good"}, replace(CONFIG, device="cuda"))]
    folders = [tmp_path / "a" / ".." / "b", tmp_path / "c"]
    found = executor.outcomes(tasks, folders, "local")
    assert [outcome.summary is not None for outcome in found] == [True, True]
    assert ray == [
        ("local", {"log_to_driver": False, "include_dashboard": False}),
        ({"num_cpus": 3, "num_gpus": 0}, tmp_path / "b"), ({"num_cpus": 1, "num_gpus": 1}, tmp_path / "c"), "shut down",
    ]  # fmt: skip
    with executor.connected("auto"):
        assert ray[-1] == ("auto", {"log_to_driver": False, "include_dashboard": None})
    with pytest.raises(InputError) as refused, executor.connected("nowhere"):
        pass
    assert str(refused.value) == "`ray_address=nowhere` cannot be reached: cannot connect " + "x" * 185
