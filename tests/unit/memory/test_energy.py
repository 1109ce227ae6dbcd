"""Voltage, bit error rate, weight reads and multiply-accumulates: every number by hand or by counting another way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backends.memory.energy import bit_error_rate, macs, saving, voltage, weight_reads

# Stutz et al., MLSys 2021, figure 1: 24ths of the lowest voltage without errors
MEASURED = {23: 1.90735e-6, 22: 6.86646e-5, 21: 1.29e-3, 20: 1.115e-2, 19: 5.573e-2, 18: 0.2056}
SHARES = [0.0, 0.2, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("above", [23, 22, 21, 20, 19])
def test_between_two_points_voltage_falls_in_proportion_to_the_logarithm_of_the_rate(above: int, share: float) -> None:
    rate = MEASURED[above] * (MEASURED[above - 1] / MEASURED[above]) ** share
    volts = (above - share) / 24
    assert voltage(min(rate, 0.2056)) == pytest.approx(volts, rel=1e-12)
    assert bit_error_rate(volts) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(("volts", "rate"), MEASURED.items())
def test_the_measured_points_are_met_both_ways(volts: int, rate: float) -> None:
    assert voltage(rate) == pytest.approx(volts / 24, rel=1e-12)
    assert bit_error_rate(volts / 24) == pytest.approx(rate, rel=1e-12)


def test_beyond_the_measured_points_there_are_no_errors_or_nothing_is_known() -> None:
    assert voltage(0.0) == 1.0
    assert voltage(math.nextafter(1.90735e-6, 0.0)) == 1.0
    assert voltage(math.nextafter(0.2056, 1.0)) is None
    assert bit_error_rate(math.nextafter(23 / 24, 1.0)) == 0.0
    assert bit_error_rate(1.0) == 0.0
    assert bit_error_rate(math.nextafter(18 / 24, 0.0)) is None


def test_a_saving_is_one_less_the_access_energy_and_the_share_that_the_fuse_costs() -> None:
    assert saving(0.7, 50.0, 4.0) == pytest.approx(0.22, rel=1e-12)
    assert saving(0.36, 8.0, 10.0) == pytest.approx(-0.61, rel=1e-12)


def places(side: int, kernel: int, stride: int, pad: int) -> int:
    """Windows of one side as SCALE-Sim counts them: one begins at every stride that lies in front of the last full one plus a
    stride."""
    return len(range(0, side + 2 * pad - kernel + stride, stride))


@pytest.mark.parametrize("height", [9, 10, 11, 12, 13])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [((2, 3), (2, 3), 1), ((5, 3), (3, 1), 0), ((3, 4), (1, 4), 2)])
def test_a_convolution_reads_its_weights_again_for_every_32_pixels(
    height: int, kernel: tuple[int, int], stride: tuple[int, int], pad: int
) -> None:
    net = nn.Conv2d(3, 5, kernel, stride, pad)
    pixels = places(height, kernel[0], stride[0], pad) * places(14, kernel[1], stride[1], pad)
    times = -(-pixels // 32)
    assert weight_reads(net, (3, height, 14)) == 3 * 5 * kernel[0] * kernel[1] * times / 8


@pytest.mark.parametrize(("width", "times"), [(31, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_32_pixels_are_read_for_at_once_and_the_33rd_needs_all_weights_again(width: int, times: int) -> None:
    assert weight_reads(nn.Conv2d(3, 7, 1), (3, 1, width)) == 21 * times / 8


def test_linear_layers_are_read_once_transposed_convolutions_as_plain_ones_on_twice_the_side() -> None:
    assert weight_reads(nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, 11)), (3, 5, 7)) == 105 * 11 / 8
    # sides 2 * 5 + 2 - 4 + 1 = 9 and 2 * 7 + 2 - 3 + 1 = 14: 126 pixels, 4 times 2 * 6 * 4 * 3 weights
    up = nn.ConvTranspose2d(2, 6, (4, 3), stride=2, padding=1)
    assert weight_reads(up, (2, 5, 7)) == 4 * 144 / 8
    # 5 * 13 = 65 pixels just take three passes, 8 * 8 = 64 still two
    assert weight_reads(nn.ConvTranspose2d(2, 6, (4, 2)), (2, 3, 6)) == 3 * 96 / 8
    assert weight_reads(nn.ConvTranspose2d(2, 6, (3, 5)), (2, 4, 5)) == 2 * 180 / 8


def test_the_reads_of_all_layers_are_added_and_biases_norms_and_pools_are_free() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d((2, 3)),
        nn.Sequential(nn.Conv2d(6, 5, (1, 3))), nn.Flatten(), nn.Linear(5 * 5 * 2, 13),
    )  # fmt: skip
    # (4, 10, 12): 120 pixels read 6 * 2 * 9 four times; (6, 5, 4): 5 * 2 pixels read 90 once
    assert weight_reads(net, (4, 10, 12)) == (108 * 4 + 90 + 50 * 13) / 8


@pytest.mark.parametrize("padding", [(0, 2), (2, 0)])
def test_each_side_has_its_own_padding(padding: tuple[int, int]) -> None:
    net = nn.Conv2d(3, 5, 3, padding=padding)
    pixels = places(6, 3, 1, padding[0]) * places(11, 3, 1, padding[1])
    assert pixels == {(0, 2): 4 * 13, (2, 0): 8 * 9}[padding]
    assert weight_reads(net, (3, 6, 11)) == 135 * -(-pixels // 32) / 8
    assert weight_reads(net, (3, 6, 11), {"": 1}) == 135 * -(-6 * 11 // 32) / 8


def test_padding_by_name_overrides_the_layers_own() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 7, 3, padding=1))
    own, first = 135 * 3 + 315 * 3, places(9, 3, 1, 0) * places(10, 3, 1, 0)
    assert weight_reads(net, (3, 9, 10)) == own / 8
    assert first == 56
    assert weight_reads(net, (3, 9, 10), {"0": 0}) == (135 * 2 + 315 * 3) / 8
    assert weight_reads(net, (3, 9, 10), {"1": 4}) == (135 * 3 + 315 * -(-15 * 16 // 32)) / 8


LAYERS: dict[str, tuple[nn.Module, tuple[int, int, int], int]] = {
    # out (5, 6, 4): 3 * 5 * 2 * 3 weights at 24 pixels
    "convolution": (nn.Conv2d(3, 5, (2, 3), (2, 3), 1, bias=False), (3, 11, 12), 90 * 6 * 4),
    "convolution with bias": (nn.Conv2d(3, 5, (2, 3), (2, 3), 1), (3, 11, 12), 90 * 24 + 5 * 24),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 7, 5), 6 * 2 * 9 * 5 * 3),
    # out (7, 9, 14)
    "transposed": (nn.ConvTranspose2d(3, 7, (3, 4), 2, 1), (3, 5, 7), 3 * 7 * 12 * 126 + 7 * 126),
    "transposed without bias": (nn.ConvTranspose2d(3, 7, (3, 4), 2, 1, bias=False), (3, 5, 7), 252 * 126),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(42, 11, bias=False)), (3, 2, 7), 42 * 11),
    "linear with bias": (nn.Sequential(nn.Flatten(), nn.Linear(42, 11)), (3, 2, 7), 42 * 11 + 11),
    "batch normalisation": (nn.BatchNorm2d(3), (3, 5, 7), 2 * 105),
    "rectifier": (nn.ReLU(), (3, 5, 7), 105),
    "upsampling": (nn.Upsample(scale_factor=(2, 3)), (3, 5, 7), 6 * 105),
    "maximum": (nn.MaxPool2d((2, 3)), (3, 6, 7), 126),
    "mean": (nn.AvgPool2d(3), (3, 6, 7), 126),
    "mean of all": (nn.AdaptiveAvgPool2d(1), (3, 6, 7), 126),
    "what is not counted": (nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Dropout()), (3, 6, 7), 0),
}  # fmt: skip


@pytest.mark.parametrize(("net", "shape", "expected"), LAYERS.values(), ids=LAYERS)
def test_each_kind_of_layer_has_the_multiply_accumulates_of_the_rule(
    net: nn.Module, shape: tuple[int, int, int], expected: int
) -> None:
    assert macs(net, shape) == expected


def test_the_multiply_accumulates_of_all_layers_are_added() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(30, 7),
    )
    sites = 4 * 7
    assert macs(net, (3, 4, 7)) == (135 + 5) * sites + 2 * 5 * sites + 5 * sites + 5 * sites + 30 * 7 + 7


class Watching(nn.Module):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.seen: list[tuple[Tensor, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((images, self.training, torch.is_grad_enabled()))
        output: Tensor = self.norm(images)
        return output


@pytest.mark.parametrize("count", [macs, weight_reads])
@pytest.mark.parametrize("training", [True, False])
def test_one_black_image_is_seen_in_evaluation_and_the_network_is_left_as_it_was(count: Any, training: bool) -> None:
    net = Watching().train(training)
    count(net, (3, 4, 5))
    ((image, trained, grad),) = net.seen
    assert torch.equal(image, torch.zeros(1, 3, 4, 5))
    assert (trained, grad) == (False, False)
    assert net.training == net.norm.training == training
    assert not net.norm._forward_hooks
    with pytest.raises(RuntimeError, match="3"):
        count(net, (4, 4, 5))
    assert net.training == training
    assert not net.norm._forward_hooks
