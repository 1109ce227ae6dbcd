"""What the pages say in words about targets, memories, protection and speed, written anew from the committed results."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from experiments.study import RESULTS
from tests.helpers.pages import one, rows, with_sd


def _errors(data: str, hardening: str, rate: float, chips: str = "unseen") -> float:
    return float(one("bit_error_robustness", data=data, hardening=hardening, rate=rate, chips_are=chips)["robust_error_mean"])


def resisting() -> list[str]:
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
    adds = {name: [row["fuse_adds"] for row in rows("hardened_fuse", hardening=name)] for name in ("normal", "clip")}
    energy = {row["hardening"]: row for row in rows("hardened_fuse", rate=0.05)}
    at_10 = {row["hardening"]: row for row in rows("hardened_fuse", rate=0.1)}
    ratios = {(row["target"], row["method"]): row["ratio"] for row in rows("hardening")}
    residual = {f"{ratios[target, 'randbet']:.1f}" for target in ("resnet8-bn", "resnet8-gn")}
    assert len(residual) == 1
    return [
        f"`normal` is worse than `rquant` (by {digits('normal') - digits('rquant'):.0f} points at 5 %",
        f"a network fitted to one chip has {own:.1f} % on it and {others:.0f} % on others at the same rate, "
        f"{digits('fixed pattern', 0.1, 'trained on'):.0f} % on its own at the double",
        f"label smoothing takes {digits('clip, label smoothing') - digits('clip'):.0f} points of clipping's gain of "
        f"{digits('rquant') - digits('clip'):.0f} at 5 %",
        f"the last two {apart[1]:.1f} points apart",
        f"Clipping costs {clean['clip'] - clean['rquant']:.0f} points without errors",
        f"loses {lost['rquant, batch norm']:.0f} points at 2.5 % where group normalisation loses {lost['rquant']:.0f}; a network "
        f"fitted to one chip has {large('fixed pattern', 0.01, 'trained on'):.1f} % on it at 1 % and "
        f"{large('fixed pattern', 0.01):.1f} % on others",
        f"As many random flips change nothing ({min(random):.1f} to {max(random):.1f} %).",
        f"the less a fuse adds: {min(adds['normal']):.0f} to {max(adds['normal']):.0f} points with `normal`, "
        f"{min(adds['clip']):.0f} "
        f"and {max(adds['clip']):.0f} with clipping",
        f"{energy['rquant']['fused_mean']:.1f} % and more takes {energy['clip']['energy_bare']:.2f} of an "
        f"access's energy with RandBET "
        f"bare, {at_10['randbet, 10 %']['energy_bare']:.2f} with a head, {energy['clip']['energy_fused']:.2f} with",
        f"A step of RandBET takes {residual.pop()} times the processor time of a plain one on a residual network "
        f"with batch or group "
        f"normalisation, and {ratios['digits-gn', 'randbet']:.1f} on digits",
    ]


def _design(name: str) -> str:
    row = one("cross_layer_cifar10", design=name)
    extra = f"{100 * (row['area'] - 1):.0f}, {100 * row['energy']:.0f}, "
    return extra + with_sd(row["accuracy_mean"], row["accuracy_sd"], 100)


def layers() -> list[str]:
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
    return [
        f"costs no area, but {100 * (tmr['accuracy_mean'] - cheap['accuracy_mean']):.1f} points on test images",
        f"{sum(tried.values())} designs tried: full TMR {_design('full TMR')} ({bare['images']} test images), bits only and "
        f"cross-layer the same design, {_design('bits only')}, and with a head "
        f"{with_sd(head['accuracy_mean'], head['accuracy_sd'], 100)}; without protection "
        f"{with_sd(bare['accuracy_mean'], bare['accuracy_sd'], 100)}",
        f"never wrong {', '.join(shares[:3])} and {shares[3]} % of the squared error are left",
        f"moves by {moved[0]['value']:.1f}, {moved[1]['value']:.0f} and {moved[2]['value']:.0f} with one to three",
        f"has a rank correlation of {channels['weights']['value']:.2f} with that by gradients for weights and "
        f"{channels['results']['value']:.2f} for results",
        f"With {evaluations} evaluations each, begun with full TMR, Optuna's TPE finds {area['tpe']:.2f} times "
        f"the unprotected area on "
        f"average and random search {area['random']:.2f}; it is better with {better} of 10 seeds",
    ]


def families() -> list[str]:
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
    return [
        f"so as many passes: {gain('standard, SAQ', 'standard, twice the steps')} and, with sparse activations, "
        f"{gain('sparse, SAQ', 'sparse, twice the steps')} points at 3.3 %",
        f"Sparse activations tolerate less ({gain('sparse', 'standard')} points)",
        f"There bounding to 0 or to the median loses {bounded(1, 0.003):.1f} and {bounded(3, 0.003):.1f} points, to the largest "
        f"weight {bounded(2, 0.003):.0f}; at 1 % it is {bounded(1, 0.01):.0f} and more",
        f"the basis carries {100 * min(powers):.0f} to {100 * max(powers):.0f} % of the error power",
        f"a wrong bit of an exponent code is {ratio:.0f} times the error of one of 8 bits",
        f"PReLU has {prelu:+.1f} points without errors",
        f"At 3.3 % it loses {binary('plain'):.1f}, fitted with flips {binary('flip'):.1f}, with the margin "
        f"{binary('margin'):.1f} "
        "points",
    ]


def speed() -> list[str]:
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
    above = [row["relative_error"] for row in rows("saturation") if row["measured"] is not None and row["workers"] > 1]
    return [
        f"about {1000 * injected[seldom, 'ours']['seconds']:.0f} ms at 0.01 % and "
        f"{1000 * injected[often, 'ours']['seconds']:.0f} ms "
        "at 1 % bit errors",
        f"{faster('uniform', seldom):.0f} and {faster('uniform', often):.0f} times faster than a uniform number per bit, "
        f"{faster('map', seldom):.0f} and {faster('map', often):.1f} times faster than a stuck-at map",
        f"gives {share[small, 'binary']:.0f} % (1x8x8) and {share[large, 'binary']:.0f} % (3x32x32) of the images "
        f"a second that it "
        f"gives in process, with JSON {share[small, 'json']:.0f} % and {share[large, 'json']:.0f} %",
        f"Two workers of Ray do {gain('compute', 2):.1f} times the steps of one where the target computes",
        f"sixteen {gain('remote', 16):.1f} times where a server takes 50 ms",
        f"at {beside[0]:.1f} and {beside[1]:.1f} times its steps",
        f"from {full[121_195, 10]} workers on if an answer takes 10 ms, {full[121_195, 50]} at 50 ms, "
        f"{full[121_195, 500]} at 500 ms (a "
        f"fuse of 121,195 parameters; with 723,273: {full[723_273, 10]}, {full[723_273, 50]}, {full[723_273, 500]}). It promises "
        f"{100 * min(above):.0f} to {100 * max(above):.0f} % more steps than were measured",
    ]
