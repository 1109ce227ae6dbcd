"""What the command prints and the code it exits with, whatever the run itself does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.base import InputError, TargetError
from bbfuse import execution
from bbfuse.cli.run import main, parse
from bbfuse.config.schema import RunConfig
from tests.helpers.documents.pages import ROOT


@contextlib.contextmanager
def doing(monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any] | BaseException, seen: list[Any]) -> Any:
    """`main` whose work has this ``outcome``; what it was called with is ``seen``."""

    def done(name: str) -> Callable[[Any], Any]:
        def do(given: Any, **_: Any) -> Any:
            seen.append((name, given))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        return do

    with monkeypatch.context() as patch:
        for name in ("execute", "forecast"):
            patch.setattr(execution, name, done(name))
        for name in ("closing_table", "plan_table"):
            patch.setattr(f"bbfuse.cli.tables.{name}", lambda result, name=name: seen.append((name, result)))
        yield


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--chip-seed", "3"], ["execute", "closing_table"]), (["--plan"], ["forecast", "plan_table"]), (["--json"], ["execute"]),
        (["--plan", "--json"], ["forecast"]),
    ],
)  # fmt: skip
def test_a_table_or_json_of_the_run_or_of_the_plan_is_printed(
    arguments: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    with doing(monkeypatch, {"a": {"b": 3}}, seen):
        assert main(arguments) == 0
    assert [name for name, _ in seen] == names
    told = capsys.readouterr()
    assert told.out == ('{\n  "a": {\n    "b": 3\n  }\n}\n' if "--json" in arguments else "")
    assert told.err == ""


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], RunConfig(chip_seed=0)), (["--budget", "9000"], RunConfig(chip_seed=0, budget=9_000)),
        (["--chip-seed", "3"], RunConfig(chip_seed=3)), (["--chip-seed=3"], RunConfig(chip_seed=3)),
        (["--population"], RunConfig()),
        (["--population", "--seed", "5"], RunConfig(seed=5)), (["--resume", "a"], RunConfig(resume=Path("a"))),
    ],
)  # fmt: skip
def test_chip_0_is_the_default_and_the_population_is_asked_for_by_name(arguments: list[str], config: RunConfig) -> None:
    assert parse(arguments) == config


@pytest.mark.parametrize("other", [["--chip-seed", "0"], ["--chip-seed=0"], ["--resume", "runs/a"]])
def test_the_population_does_not_go_with_a_chip_or_a_run_to_resume(other: list[str]) -> None:
    with pytest.raises(InputError, match=rf"^--population does not go with {other[0].split('=')[0]}: drop one of the two$"):
        parse(["--population", *other])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("bad"), 2, "error: bad\n"), (TargetError("gone"), 1, "error: gone\n"),
        (KeyboardInterrupt(), 130, "interrupted; continue with --resume and the run folder\n"),
    ],
)  # fmt: skip
def test_what_ends_a_run_has_its_exit_code(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with doing(monkeypatch, error, []):
        assert main(["--chip-seed", "3"]) == code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", words)


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, bbfuse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
