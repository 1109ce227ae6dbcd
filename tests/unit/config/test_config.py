"""What cannot work is refused before anything is opened, and by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.base import InputError
from backends.flags import as_flags
from backends.kinds.base import BACKENDS
from bbfuse.cli.run import parse
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.runs.folder import RunFolder


def test_every_default_combination_that_access_allows_is_valid() -> None:
    for backend, kind in BACKENDS.items():
        for optimizer, method in OPTIMIZERS.items():
            for chip in (None, 0):
                config = RunConfig(backend=backend, optimizer=optimizer, chip_seed=chip)  # type: ignore[arg-type]
                if method.access <= kind.access:
                    validate(config)
                else:
                    with pytest.raises(
                        InputError, match=f"`optimizer={optimizer}` needs gradients, but `backend={backend}` grants"
                    ):
                        validate(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--bit-error-rate 1.5", "--bit-error-rate must lie in [0, 1], got 1.5"),
        ("--rge.lr inf", "--rge.lr must be above 0, got inf"),
        ("--spsa-gc.a 0.1", "--spsa-gc.a has no effect without --optimizer spsa-gc: drop it or choose that"),
        ("--optimizer cma --cma.subspace 0", "--cma.subspace must be above 0, got 0"),
        ("--backend remote --remote.requests-per-second -1", "--remote.requests-per-second must be above 0, got -1.0"),
        ("--rge.space parameters --rge.no-broyden", "--rge.no-broyden has no effect with --rge.space parameters: drop it"),
    ],
)
def test_what_is_refused_is_named_as_on_the_command_line(arguments: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        validate(parse(arguments.split()))
    assert as_flags(str(error.value)) == message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--optimiser rge", "--optimiser"),
        ("--backend cloud", "local.*remote.*whitebox.*cloud"),
        ("--budget many", "--budget.*many"),
        ("--spsa.x 1", "--spsa.x"),
        ("rge", "rge"),
    ],
)
def test_wrong_flags_are_one_line(arguments: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        parse(arguments.split())
    assert "\n" not in str(error.value)
    assert not any(frame in str(error.value) for frame in "─│╭╰")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"rge": 3}', "null"])
def test_a_folder_without_a_run_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="holds no run"):
        RunFolder.open(tmp_path)


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        RunFolder.create(tmp_path, RunConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder.create(tmp_path / "thesis.tex" / "run", RunConfig())
