"""What the committed results say, in sentences whose numbers are computed from their rows: targets, memories and speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import mean
from typing import Any

from experiments.selected import Claim, one, rows, with_sd
from experiments.study import RESULTS

__all__ = ["families", "layers", "resisting", "speed"]


_BROKEN = 50.0  # percent: error of a target that an attack has broken


def _errors(data: str, hardening: str, rate: float, chips: str = "unseen") -> float:
    return float(one("bit_error_robustness", data=data, hardening=hardening, rate=rate, chips_are=chips)["robust_error_mean"])


def resisting() -> Iterator[Claim]:
    """Hardened targets."""

    def digits(hardening: str, rate: float = 0.05, chips: str = "unseen") -> float:
        return _errors("digits", hardening, rate, chips)

    def large(hardening: str, rate: float, chips: str = "unseen") -> float:
        return _errors("CIFAR-10 (JPEG)", hardening, rate, chips)

    clean = {row["hardening"]: row["error"] for row in rows("bit_error_robustness", data="CIFAR-10 (JPEG)")}
    apart = [large("clip", rate) - large("randbet", rate) for rate in (0.01, 0.025)]
    assert apart[0] < apart[1]
    lost = {name: large(name, 0.025) - clean[name] for name in ("rquant", "rquant, batch norm")}
    own, others = digits("fixed pattern", 0.05, "trained on"), digits("fixed pattern")
    random = [row["robust_error"] for row in rows("bit_attacks", attack="random")]
    broken = {
        name: min(r["flips"] for r in rows("bit_attacks", hardening=name, attack="projected") if r["robust_error"] > _BROKEN)
        for name in ("clip", "clip, advbet")
    }
    adds = {name: [row["fuse_adds"] for row in rows("hardened_fuse", hardening=name)] for name in ("normal", "clip")}
    energy = {row["hardening"]: row for row in rows("hardened_fuse", rate=0.05)}
    at_10 = {row["hardening"]: row for row in rows("hardened_fuse", rate=0.1)}
    ratios = {(row["target"], row["method"]): row["ratio"] for row in rows("hardening")}
    residual = {f"{ratios[target, 'randbet']:.1f}" for target in ("resnet8-bn", "resnet8-gn")}
    assert len(residual) == 1
    yield Claim(
        f"digits targets: `normal` quantization has {digits('normal') - digits('rquant'):.0f} points more error than "
        f"`rquant` at 5 % bit errors; clipping has {digits('rquant') - digits('clip'):.0f} points less than `rquant`, of "
        f"which label smoothing takes {digits('clip, label smoothing') - digits('clip'):.0f}; clipping with random bit "
        f"errors in training (10 %) has {digits('randbet, 10 %'):.1f} % error",
        "bit_error_robustness",
    )  # fmt: skip
    yield Claim(
        f"a network fitted to one chip has {own:.1f} % error on it and {others:.0f} % on others at the same rate, "
        f"{digits('fixed pattern', 0.1, 'trained on'):.0f} % on its own at twice the rate",
        "bit_error_robustness",
    )  # fmt: skip
    yield Claim(
        f"CIFAR-10 (JPEG): clipping costs {clean['clip'] - clean['rquant']:.0f} points without errors; batch normalisation "
        f"loses {lost['rquant, batch norm']:.0f} points at 2.5 %, group normalisation {lost['rquant']:.0f}; random bit "
        f"errors in training take {apart[1]:.1f} points off the error with clipping",
        "bit_error_robustness",
    )  # fmt: skip
    yield Claim(
        f"as many random flips as an attack chooses change nothing ({min(random):.1f} to {max(random):.1f} % error); "
        f"adversarial training with clipping takes {broken['clip, advbet'] // broken['clip']} times as many chosen flips to "
        "break",
        "bit_attacks",
    )  # fmt: skip
    yield Claim(
        f"the more errors the target tolerates, the less a fuse adds: {min(adds['normal']):.0f} to {max(adds['normal']):.0f} "
        f"points with `normal`, {min(adds['clip']):.0f} and {max(adds['clip']):.0f} with clipping; "
        f"{energy['rquant']['fused_mean']:.1f} % and more takes {energy['clip']['energy_bare']:.2f} of an access's energy "
        f"with random bit errors in training and no fuse, {at_10['randbet, 10 %']['energy_bare']:.2f} with a head, "
        f"{energy['clip']['energy_fused']:.2f} with clipping and a fuse",
        "hardened_fuse",
    )  # fmt: skip
    yield Claim(
        f"a training step with random bit errors takes {residual.pop()} times the processor time of a plain one on a "
        f"residual network, {ratios['digits-gn', 'randbet']:.1f} times on digits",
        "hardening",
    )  # fmt: skip


def _design(name: str) -> str:
    row = one("cross_layer_cifar10", design=name)
    extra = f"{100 * (row['area'] - 1):.0f}, {100 * row['energy']:.0f}, "
    return extra + with_sd(row["accuracy_mean"], row["accuracy_sd"], 100)


def layers() -> Iterator[Claim]:
    """Protection across the layers."""
    tmr, cheap = (one("cross_layer", design=name, rate=0.01, wished=None) for name in ("full TMR", "quantization only"))
    bare, head = (one("cross_layer_cifar10", design=name) for name in ("unprotected", "cross-layer with fuse"))
    assert _design("bits only") == _design("cross-layer")
    tried = json.loads((RESULTS / "cross_layer_cifar10.json").read_text())["config"]["evaluations"]

    def profile(kind: str, site: str) -> list[dict[str, Any]]:
        return [row for row in rows("cross_layer_profiles", kind=kind, site=site) if row["place"] in (1, 2, 3, 4)]

    left, moved = profile("left", "weights"), profile("rate", "logits")
    channels = {row["site"]: row for row in rows("cross_layer_profiles", kind="channels")}
    area = {name: mean(row["area"] for row in rows("cross_layer_search", sampler=name)) for name in ("tpe", "random")}
    pairs = zip(rows("cross_layer_search", sampler="tpe"), rows("cross_layer_search", sampler="random"), strict=True)
    (evaluations,) = {row["evaluations"] for row in rows("cross_layer_search")}
    better = sum(a["area"] < b["area"] for a, b in pairs)
    shares = [f"{100 * row['value']:.1f}" for row in left]
    yield Claim(
        "at 1 % bit errors half the range of the weights costs no area, but "
        f"{100 * (tmr['accuracy_mean'] - cheap['accuracy_mean']):.1f} points on test images compared with full TMR",
        "cross_layer",
    )  # fmt: skip

    yield Claim(
        f"CIFAR-10 (JPEG), {sum(tried.values())} designs (extra area and energy in percent, accuracy): full TMR "
        f"{_design('full TMR')}; bits only and cross-layer the same design, {_design('bits only')}, with a head "
        f"{with_sd(head['accuracy_mean'], head['accuracy_sd'], 100)}; without protection "
        f"{with_sd(bare['accuracy_mean'], bare['accuracy_sd'], 100)} ({bare['images']} test images)",
        "cross_layer_cifar10",
    )  # fmt: skip
    yield Claim(
        f"with one to four top bits protected {', '.join(shares[:3])} and {shares[3]} % of the squared error are left, and "
        f"the rate at which logits change moves by {moved[0]['value']:.1f}, {moved[1]['value']:.0f} and "
        f"{moved[2]['value']:.0f} with one to three; the harm of channels, estimated from queries, has a rank correlation of "
        f"{channels['weights']['value']:.2f} with that by gradients for weights and {channels['results']['value']:.2f} for "
        "results",
        "cross_layer_profiles",
    )  # fmt: skip
    yield Claim(
        f"with {evaluations} evaluations Optuna's TPE finds {area['tpe']:.2f} times the unprotected area on average, random "
        f"search {area['random']:.2f}; TPE is better with {better} of 10 seeds",
        "cross_layer_search",
    )  # fmt: skip


def families() -> Iterator[Claim]:
    """Families of targets."""

    def accuracy(family: str, variant: str, rate: float) -> float:
        named = {"family": family, "variant": variant, "rate": rate, "errors": "random"}
        return float(100 * one("families", **named)["perturbed_mean"])

    def gain(better: str, worse: str, rate: float = 0.033) -> str:
        return f"{accuracy('FlatENN', better, rate) - accuracy('FlatENN', worse, rate):+.0f}"

    def bounded(number: int, rate: float) -> float:
        return accuracy("SoftSNN", f"bound and protect {number}", 0.0) - accuracy("SoftSNN", f"bound and protect {number}", rate)

    def binary(variant: str) -> float:
        return accuracy("RRAM binary", variant, 0.0) - accuracy("RRAM binary", variant, 0.033)

    powers = [row["basis_power"] for row in rows("families", variant="all stored") if row["basis_power"] is not None]
    flips = {
        name: {row["flip_error"] for row in rows("families", family="ShiftAddNet", variant=name)}
        for name in ("shift codes", "8-bit codes")
    }
    ratio = flips["shift codes"].pop() / flips["8-bit codes"].pop()
    prelu = accuracy("FTBNN", "prelu", 0.0) - accuracy("FTBNN", "none", 0.0)
    yield Claim(
        f"FlatENN: sharpness-aware quantization has {gain('standard, SAQ', 'standard, twice the steps')} points at 3.3 % bit "
        f"errors, {gain('sparse, SAQ', 'sparse, twice the steps')} with sparse activations; sparse activations tolerate less "
        f"({gain('sparse', 'standard')} points)",
        "families",
    )  # fmt: skip
    yield Claim(
        f"SoftSNN: at 0.3 % bounding to 0 or to the median loses {bounded(1, 0.003):.1f} and {bounded(3, 0.003):.1f} points, "
        f"to the largest weight {bounded(2, 0.003):.0f}; at 1 % bounding to 0 loses {bounded(1, 0.01):.0f}",
        "families",
    )  # fmt: skip
    yield Claim(
        f"SmartExchange: the basis carries {100 * min(powers):.0f} to {100 * max(powers):.0f} % of the error power; "
        f"ShiftAddNet: a bit error of an exponent code is {ratio:.0f} times that of an 8-bit code; FTBNN: PReLU has "
        f"{prelu:+.1f} points without errors",
        "families",
    )  # fmt: skip
    yield Claim(
        f"RRAM binary: at 3.3 % the plain target loses {binary('plain'):.1f} points, fitted with flips {binary('flip'):.1f}, "
        f"with the margin {binary('margin'):.1f}",
        "families",
    )  # fmt: skip


def speed() -> Iterator[Claim]:
    """Memories, transport and workers."""
    injected = {(row["rate"], row["method"]): row for row in rows("injection")}
    often, seldom = 0.01, 0.0001

    def faster(method: str, rate: float) -> float:
        speedup = float(injected[rate, method]["speedup"])
        return float(f"{speedup:.1g}") if speedup > 50 else speedup  # as the page rounds

    speeds = {(row["shape"], row["mode"]): row["images_per_second"] for row in rows("remote", target_ms=20)}
    share = {key: 100 * speed / speeds[key[0], "local"] for key, speed in speeds.items()}
    small, large = "1x8x8", "3x32x32"
    steps = {(row["case"], row["workers"]): row for row in rows("scaling")}

    def gain(case: str, workers: int) -> float:
        return float(steps[case, workers]["steps_per_second"] / steps[case, 1]["steps_per_second"])

    peers = [row for row in rows("scaling") if row["peer"] is not None]
    beside = [row["steps_per_second"] / row["peer_steps_per_second"] for row in peers]
    assert {round(row["peer_bytes_per_probe"] / row["bytes_per_probe_in_all"]) for row in peers} == {8}
    full = {(r["parameters"], r["answer_ms"]): round(r["saturates_at"]) for r in rows("saturation", case="cluster")}
    added = [row["added_ms"] for row in rows("proxy")]
    batched = {(row["precision"], row["generator"], row["part"]): row["ms"] for row in rows("training", target="resnet20")}
    slower = [ms / batched[*key, "4 chips"] for (*key, part), ms in batched.items() if part == "4 chips in one pass"]
    above = [row["relative_error"] for row in rows("saturation") if row["measured"] is not None and row["workers"] > 1]
    ours = {rate: 1000 * injected[rate, "ours"]["seconds"] for rate in (seldom, often)}
    yield Claim(
        f"errors in the 11.2 million weights of a ResNet18 take about {ours[seldom]:.0f} ms at 0.01 % and {ours[often]:.0f} "
        f"ms at 1 % bit errors, {faster('uniform', seldom):.0f} and {faster('uniform', often):.0f} times faster than a "
        f"uniform number per bit, {faster('map', seldom):.0f} and {faster('map', often):.1f} times faster than a stuck-at map",
        "injection",
    )  # fmt: skip
    yield Claim(
        f"over HTTP with binary tensors a target of 20 ms for 128 images has {share[small, 'binary']:.0f} % ({small}) and "
        f"{share[large, 'binary']:.0f} % ({large}) of the throughput in process, with JSON {share[small, 'json']:.0f} % and "
        f"{share[large, 'json']:.0f} %",
        "remote",
    )  # fmt: skip
    yield Claim(
        f"the proxy adds {min(added):.0f} to {max(added):.0f} ms to a request",
        "proxy",
    )  # fmt: skip
    yield Claim(
        f"two workers of Ray do {gain('compute', 2):.1f} times the steps of one where the target computes, sixteen "
        f"{gain('remote', 16):.1f} times where a server takes 50 ms; for fuses of 121,195 and 723,273 parameters "
        f"{beside[0]:.1f} and {beside[1]:.1f} times the steps of EvoTorch's SNES with an eighth of its traffic",
        "scaling",
    )  # fmt: skip
    yield Claim(
        f"in a simulation with four probes a worker the driver limits a step from {full[121_195, 10]} workers on at 10 ms a "
        f"response, {full[121_195, 50]} at 50 ms, {full[121_195, 500]} at 500 ms (a fuse of 121,195 parameters; with "
        f"723,273: {full[723_273, 10]}, {full[723_273, 50]}, {full[723_273, 500]}); it predicts {100 * min(above):.0f} to "
        f"{100 * max(above):.0f} % more steps than measured",
        "saturation",
    )  # fmt: skip
    yield Claim(
        f"several chips in one batched pass are {min(slower):.1f} to {max(slower):.1f} times slower on a processor at 32x32",
        "training",
    )  # fmt: skip
