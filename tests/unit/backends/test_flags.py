"""Errors of the library name settings; errors of a command name its flags."""

from dataclasses import dataclass

import pytest

from backends.base import InputError
from backends.flags import as_flags, parse, refused


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`spsa.key_env` must be set", "--spsa.key-env must be set"),
        ("`rge.basis` has no effect with `rge.space=parameters`", "--rge.basis has no effect with --rge.space parameters"),
        ("needs `rge.broyden=False`", "needs --rge.no-broyden"),
        ("needs `augment=True` or `augment=False`", "needs --augment or --no-augment"),
        ("remove `remote.a_b.c_d=x_y`", "remove --remote.a-b.c-d x_y"),
        ("try `generator=UNetXS`", "try --generator UNetXS"),
        ("`c2` and `target`: fit it", "--c2 and --target: fit it"),
        ("call `pip install it`, `Chip`, `f()`, `a/b`, `-x`, `A.b`", "call `pip install it`, `Chip`, `f()`, `a/b`, `-x`, `A.b`"),
        ("nothing in backticks", "nothing in backticks"),
    ],
)
def test_settings_in_backticks_become_flags(message: str, shown: str) -> None:
    assert as_flags(message) == shown


def test_a_command_stops_with_one_line_that_names_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(InputError("`memory.bits` must lie in [2, 8], got 1")) == 2
    assert refused(InputError("`budget` is used up"), code=1) == 1
    assert capsys.readouterr().err == "error: --memory.bits must lie in [2, 8], got 1\nerror: --budget is used up\n"


@dataclass(frozen=True)
class Asked:
    """Ask for something."""

    times: int = 1
    """how often"""


def test_flags_become_fields_and_wrong_ones_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Asked, "ask", ["--times", "3"]) == Asked(3)
    for wrong in (["--time", "3"], ["--times", "often"]):
        with pytest.raises(InputError, match=wrong[0]) as error:
            parse(Asked, "ask", wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(SystemExit) as stop:
        parse(Asked, "ask", ["--help"])
    assert not stop.value.code
    assert "how often" in capsys.readouterr().out
