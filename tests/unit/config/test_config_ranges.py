"""Every number that can be set: a value just outside of its range is refused by name, one just inside is accepted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from backends.base import InputError
from backends.flags import as_flags
from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig
from bbfuse.opening import owned_data
from tests.helpers.settings import made

TINY = 5e-324
"""The smallest number above 0."""

WHOLE_ABOVE_0 = (
    "budget", "batch", "threads", "remote.attempts", "remote.in_flight", "eopm.chips", "eopm.pool", "standardize.images",
    "affine.images", "surrogate.memory", "transfer.steps", "follow.every", "guided.directions", "spsa.pairs", "rge.directions",
    "spsa_gc.pairs", "fzoo.directions", "nes.pairs", "pgpe.pairs", "cma.subspace", "cma.population", "nevergrad.workers",
    "nevergrad.subspace", "validation.images", "report.chips", "report.images", "function.limit",
)  # fmt: skip
WHOLE_FROM_0 = (
    "seed", "workers", "chip_seed", "warm_up", "surrogate.steps", "surrogate.rounds", "surrogate.updates", "transfer.images",
    "validation.times", "remote.watch",
)  # fmt: skip
ABOVE_0 = (
    "ray.timeout", "ray.cpus", "ray.gpus", "remote.timeout", "remote.connect_timeout", "remote.patience",
    "remote.requests_per_second", "eopm.perturbed_weight", "affine.lr", "surrogate.lr", "transfer.lr", "follow.lr", "guided.lr",
    "guided.smoothing", "backprop.lr", "spsa.step", "spsa.c", "rge.lr", "rge.smoothing", "spsa_gc.a", "spsa_gc.c", "fzoo.lr",
    "fzoo.smoothing", "nes.lr", "nes.sigma", "pgpe.lr", "pgpe.sigma", "pgpe.sigma_lr", "pgpe.largest_change", "cma.sigma",
    "nevergrad.sigma",
)  # fmt: skip
FROM_0 = (
    "eopm.clean_weight", "affine.decay", "follow.raw", "follow.jitter", "spsa.alpha", "spsa.gamma", "spsa_gc.offset",
    "spsa_gc.alpha", "spsa_gc.gamma", "spsa_gc.momentum", "remote.price", "remote.reserve",
)  # fmt: skip
BELOW = {"follow.raw": 1.0, "remote.reserve": math.nextafter(1.0, 0.0)}
"""The highest value that is allowed, where not all are."""
RULE = {"follow.raw": "lie in [0, 1]", "remote.reserve": "lie in [0, 1)"}
"""In words, where it has two ends."""
CHECKED_WITH_THE_DATA = ("images",)

NEEDS: dict[str, dict[str, Any]] = {
    "remote": {"backend": "remote"}, "function": {"backend": "function"}, "ray": {"workers": 3},
    "affine": {"chip_seed": 3}, "surrogate": {"optimizer": "follow"},
    "backprop": {"optimizer": "backprop", "backend": "whitebox"}, "spsa": {"optimizer": "spsa"},
    "spsa_gc": {"optimizer": "spsa-gc"}, "fzoo": {"optimizer": "fzoo"}, "nes": {"optimizer": "nes"},
    "pgpe": {"optimizer": "pgpe"},
    "cma": {"optimizer": "cma"}, "nevergrad": {"optimizer": "nevergrad"}, "transfer": {"optimizer": "transfer"},
    "follow": {"optimizer": "follow"}, "guided": {"optimizer": "guided"},
}  # fmt: skip
"""What makes a section count."""


def with_value(name: str, value: float) -> RunConfig:
    return made({**NEEDS.get(name.partition(".")[0], {}), name: value})


def table() -> Iterator[tuple[str, str, float, float]]:
    """Name, rule, a value just inside, one just outside."""
    for name in WHOLE_ABOVE_0:
        yield name, "above 0", 1, 0
        yield name, "above 0", 10**6, -1
    for name in WHOLE_FROM_0:
        yield name, "0 or more", 0, -1
        yield name, "0 or more", 10**6, -2
    for name in ABOVE_0:
        yield name, "above 0", TINY, 0.0
        yield name, "above 0", 1e300, -TINY
    for name in FROM_0:
        yield name, "0 or more", 0.0, -TINY
        yield name, "0 or more", BELOW.get(name, 1e300), -0.5


@pytest.mark.parametrize(("name", "rule", "inside", "outside"), list(table()))
def test_a_number_at_the_edge_is_accepted_and_the_next_one_refused(name: str, rule: str, inside: float, outside: float) -> None:
    validate(with_value(name, inside))
    with pytest.raises(InputError) as error:
        validate(with_value(name, outside))
    assert str(error.value) == f"`{name}` must {RULE.get(name, f'be {rule}')}, got {outside}"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", WHOLE_ABOVE_0 + WHOLE_FROM_0 + ABOVE_0 + FROM_0)
def test_what_is_no_finite_number_is_refused(name: str, value: float) -> None:
    rule = "above 0" if name in WHOLE_ABOVE_0 + ABOVE_0 else "0 or more"
    with pytest.raises(InputError) as error:
        validate(with_value(name, value))
    assert str(error.value) == f"`{name}` must {RULE.get(name, f'be {rule}')}, got {value}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("follow.raw", math.nextafter(1.0, 2.0), "`follow.raw` must lie in [0, 1], got 1.0000000000000002"),
        ("remote.reserve", 1.0, "`remote.reserve` must lie in [0, 1), got 1.0"),
        ("remote.reserve", 1.5, "`remote.reserve` must lie in [0, 1), got 1.5"),
        ("bit_error_rate", -TINY, "`bit_error_rate` must lie in [0, 1], got -5e-324"),
        ("bit_error_rate", math.nextafter(1.0, 2.0), "`bit_error_rate` must lie in [0, 1], got 1.0000000000000002"),
        ("bit_error_rate", math.nan, "`bit_error_rate` must lie in [0, 1], got nan"),
        ("bit_error_rate", math.inf, "`bit_error_rate` must lie in [0, 1], got inf"),
        ("memory.bits", 1, "`memory.bits` must be 2 to 8, or 16, got 1"),
        ("memory.bits", 9, "`memory.bits` must be 2 to 8, or 16, got 9"),
        ("memory.bits", 15, "`memory.bits` must be 2 to 8, or 16, got 15"),
        ("memory.bits", 17, "`memory.bits` must be 2 to 8, or 16, got 17"),
        ("report.share", 0.0, "`report.share` must lie in (0, 1], got 0.0"),
        ("report.share", 1.5, "`report.share` must lie in (0, 1], got 1.5"),
    ],
)
def test_a_number_above_its_range_is_refused_too(name: str, value: float, message: str) -> None:
    with pytest.raises(InputError) as error:
        validate(with_value(name, value))
    assert as_flags(str(error.value)) == as_flags(message)


@pytest.mark.parametrize(
    ("name", "values"), [("bit_error_rate", [0.0, TINY, 1.0]), ("memory.bits", [2, 3, 4, 5, 6, 7, 8, 16]), ("memory.offset", [0])]
)
def test_all_of_a_range_is_accepted(name: str, values: list[float]) -> None:
    for value in values:
        validate(with_value(name, value))


def test_the_first_cell_is_not_negative_and_counts_where_cells_have_places() -> None:
    validate(made({"memory.errors": "column", "memory.offset": 1}))
    validate(made({"memory.errors": "profile", "memory.profile": "chip.npz", "memory.offset": 3}))
    with pytest.raises(InputError, match=r"^`memory\.offset` must be 0 or more, got -1$"):
        made({"memory.errors": "column", "memory.offset": -1})
    with pytest.raises(InputError, match=r"^`memory\.offset` has no effect with `memory\.errors=random`: remove it$"):
        made({"memory.offset": 1})


@pytest.mark.parametrize("number", [9, 0, -3, 1438])
def test_owned_images_are_ten_at_least_and_the_pool_at_most(number: int) -> None:
    with pytest.raises(InputError, match=rf"^`images` must lie in \[10, 1437\] for digits, got {number}$"):
        owned_data(made({"images": number}))


@pytest.mark.parametrize("number", [10, 1437])
def test_ten_owned_images_are_enough_and_the_pool_is_all(number: int) -> None:
    data = owned_data(made({"images": number}))
    assert len(data.train) + len(data.validation) == number


def numeric_fields() -> Iterator[tuple[str, bool]]:
    """The dotted name of each number that can be set, and whether it is a whole one."""

    def of(kind: type, before: str) -> Iterator[tuple[str, bool]]:
        for name, hint in get_type_hints(kind).items():
            kinds = {hint, *get_args(hint)}
            if dataclasses.is_dataclass(hint):
                yield from of(hint, f"{before}{name}.")  # type: ignore[arg-type]
            elif kinds & {int, float}:
                yield before + name, int in kinds

    return of(RunConfig, "")


def test_every_number_that_can_be_set_is_in_the_table() -> None:
    whole = {*WHOLE_ABOVE_0, *WHOLE_FROM_0, *CHECKED_WITH_THE_DATA, "memory.bits", "memory.offset"}
    assert {name for name, is_whole in numeric_fields() if is_whole} == whole
    assert {name for name, is_whole in numeric_fields() if not is_whole} == {*ABOVE_0, *FROM_0, "bit_error_rate", "report.share"}
