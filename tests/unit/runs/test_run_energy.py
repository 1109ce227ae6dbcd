"""The energy that a run's summary states, and what else the builder computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backends.kinds.remote import RemoteConfig
from bbfuse.config.schema import RunConfig
from bbfuse.costs import energy
from bbfuse.fuse.module import Fuse

SHAPE = (1, 8, 8)
TABLE = {23: 1.90735e-6, 22: 6.86646e-5, 21: 1.29e-3, 20: 1.115e-2, 19: 5.573e-2, 18: 0.2056}

# target digits: convolutions 1-16-16 on 64 pixels, 16-32-32 on 16, then 128-64-10
READS = (9 * 16 * 2 + 9 * 16 * 16 * 2 + 9 * 16 * 32 + 9 * 32 * 32 + 128 * 64 + 64 * 10) / 8
MACS = (
    (9 * 16 + 16) * 64 + (9 * 16 * 16 + 16) * 64 + 2 * 16 * 64 + 16 * 64  # biases, rectifiers, the pool's input
    + (9 * 16 * 32 + 32) * 16 + (9 * 32 * 32 + 32) * 16 + 2 * 32 * 16 + 32 * 16
    + 128 * 64 + 64 + 64 + 64 * 10 + 10
)  # fmt: skip
# the fuse's generators: weight reads and multiply-accumulates
FUSES = {
    "Filter": (25 * 2 / 8, 25 * 64 + 64),
    "MLP": (2 * 64 * 64 / 8, 64 * 64 + 64 + 64 + 64 * 64 + 64),
    "Filters": (2 * 9 * 16 * 2 / 8, (9 * 16 + 16) * 64 + 16 * 64 + (16 * 9 + 1) * 64),
    "Filter+MLP": (25 * 2 / 8 + 1024, 25 * 64 + 64 + 64 * 64 * 2 + 3 * 64),
}


@pytest.mark.parametrize(("volts", "rate"), TABLE.items())
@pytest.mark.parametrize("generator", FUSES)
def test_at_every_measured_voltage_the_saving_is_one_less_its_square_and_the_fuses_share(
    generator: str, volts: int, rate: float
) -> None:
    fuse = Fuse(generator, SHAPE, torch.Generator().manual_seed(0))
    reads, multiplications = FUSES[generator]
    bare = 1 - (volts / 24) ** 2
    assert energy(RunConfig(bit_error_rate=rate), fuse, SHAPE) == {
        "voltage": pytest.approx(volts / 24, rel=1e-12),
        "saving_bare": pytest.approx(bare, rel=1e-12),
        "saving": pytest.approx(bare - reads / READS, rel=1e-12),
        "saving_macs": pytest.approx(bare - multiplications / MACS, rel=1e-12),
    }


def test_between_two_points_the_voltage_is_interpolated_before_it_is_squared() -> None:
    rate = (1.115e-2 * 5.573e-2) ** 0.5
    found = energy(RunConfig(bit_error_rate=rate), Fuse("Filter", SHAPE, torch.Generator().manual_seed(0)), SHAPE)
    assert found["saving_bare"] == pytest.approx(1 - (19.5 / 24) ** 2, rel=1e-9)
    assert found["saving"] == pytest.approx(1 - (19.5 / 24) ** 2 - 6.25 / READS, rel=1e-9)


def test_at_nominal_voltage_a_fuse_only_costs() -> None:
    found = energy(RunConfig(bit_error_rate=0.0), Fuse("Filter", SHAPE, torch.Generator().manual_seed(0)), SHAPE)
    assert (found["voltage"], found["saving_bare"]) == (1.0, 0.0)
    assert found["saving"] == pytest.approx(-6.25 / READS, rel=1e-9)


def test_nothing_is_stated_where_no_voltage_was_measured_or_the_target_is_not_known() -> None:
    fuse = Fuse("Filter", SHAPE, torch.Generator().manual_seed(0))
    nothing = {"voltage": None, "saving_bare": None, "saving": None, "saving_macs": None}
    assert energy(RunConfig(bit_error_rate=0.21), fuse, SHAPE) == nothing
    unknown = RunConfig(backend="remote", target="somebodys", bit_error_rate=0.2056)
    found = energy(unknown, fuse, SHAPE)
    assert found == {"voltage": pytest.approx(0.75), "saving_bare": pytest.approx(0.4375), "saving": None, "saving_macs": None}


def test_nothing_is_stated_of_a_target_that_is_not_a_network_named_here() -> None:
    def found(**settings: Any) -> set[str]:
        stated = energy(
            RunConfig(bit_error_rate=0.05, **settings), Fuse("Filter", SHAPE, torch.Generator().manual_seed(0)), SHAPE
        )
        return {name for name, value in stated.items() if value is not None}

    everything = {"voltage", "saving_bare", "saving", "saving_macs"}
    assert found(backend="remote") == found(backend="bench", target="digits") == everything
    at = RemoteConfig(url="http://127.0.0.1:1")
    for settings in ({"backend": "remote", "remote": at}, {"backend": "bench", "target": "bench"}, {"backend": "function"}):
        assert found(**settings) == set()
    assert found(backend="object") == found(no_chip=True) == set()
