"""What README.md says in words, with its numbers computed from the committed results."""

from __future__ import annotations

from typing import Any

from experiments.paper import published
from tests.helpers.documents.pages import one, rows, whole

INPUTS = {"rge", "rge, plain"}
WITH_GRADIENTS = {"backprop", "control", "head"}


def main_page() -> list[str]:
    job, chips = rows("main_job"), rows("access_gap", head="none", owned=1437)

    def share(setting: str, method: str, images: int) -> float:
        (row,) = (r for r in chips if (r["setting"], r["method"], r["images"]) == (setting, method, images))
        return float(100 * row["share_mean"])

    def probing(setting: str, images: int) -> float:
        return max(
            100 * row["share_mean"] for row in chips
            if (row["setting"], row["images"]) == (setting, images) and row["method"] not in INPUTS | WITH_GRADIENTS
        )  # fmt: skip

    def needed(setting: str, share: float) -> str:
        return whole(one("query_efficiency", setting=setting, method="follow", share=share)["images_median"])

    def large(method: str, images: int) -> float:
        return float(100 * one("cifar10", setting="chip", method=method, owned=45_000, images=images)["share_mean"])

    def fused(method: str, **more: Any) -> str:
        at = {"method": method, "rate": 0.05, "bits": 8, "owned": None, **more}
        return " and ".join(f"{100 * one('paper', target=t, **at)['fused_mean']:.0f}" for t in ("digits-residual", "digits"))

    def shifted(data: str, method: str) -> str:
        found = [
            one("domain_shift", data=data, shift=shift, method=method)["recovered"] for shift in ("gain", "inversion", "blur")
        ]
        return ", ".join(f"{100 * sum(shares) / len(shares):.0f}" for shares in found)

    best = [
        max(v for (t, *_, rate), v in published.RELAXED.items() if t == target and rate == 0.01)
        for target in ("resnet18", "vgg19")
    ]
    hard = one("bit_error_robustness", data="digits", hardening="randbet, 10 %", rate=0.05, chips_are="unseen")
    (clean,) = {row["clean"] for row in job}
    lost = [row["lost_points"] for row in job]
    return [
        f"recovers {shifted('digits', 'spsa, Filter')} % of the lost points on digits and "
        f"{shifted('CIFAR-10 (JPEG)', 'spsa, Filter')} % on CIFAR-10 (JPEG), a head alone {shifted('digits', 'head alone')} and "
        f"{shifted('CIFAR-10 (JPEG)', 'head alone')} %",
        f"The classifier has {100 * clean:.1f} % at nominal voltage and loses {min(lost):.0f} to {max(lost):.0f} points on",
        f"`rge`, which probes the inputs, recovers {share('chip', 'rge', 100_000):.0f} % of the white-box recovery with 100,000 "
        f"images on one chip, and {share('population', 'rge', 300_000):.0f} % for the population with 300,000; methods that "
        f"probe the parameters recover {probing('chip', 100_000):.0f} % at most, and {probing('population', 30_000):.0f} % for "
        "the population with 30,000.",
        f"(`follow`) 95 % takes {needed('chip', 0.95)} images on one chip, and 90 % takes "
        f"{needed('population', 0.9)} for the pop",
        f"`follow` recovers {large('follow', 30_000):.0f} % of the white-box recovery with 30,000 images and "
        f"{large('follow', 100_000):.0f} % with 100,000; without a surrogate it is {large('rge, parameters', 30_000):.0f} %, "
        f"for a head alone {large('head', 1000):.0f} %.",
        f"`follow` and `affine` reach {fused('follow, affine (one chip)')} % with strict access, more than its fuse for all "
        f"chips in front of the same kind of target ({best[0]} and {best[1]} %); its fuse trained through the target reaches "
        f"{fused('backprop', study='relaxed', generator='UNetL', trained_rate=0.05)} % here.",
        f"has {100 - hard['robust_error_mean']:.0f} % at 5 % bit errors on unseen chips",
    ]


def guides() -> dict[str, list[str]]:
    """What pages of docs say in numbers."""
    added = [row["added_ms"] for row in rows("proxy")]
    bytes_sent = {row["bytes_per_probe"] for row in rows("scaling")}
    return {
        "guides/deployment.md": [f"[{min(added):.0f} to {max(added):.0f} ms](../../../experiments/results/proxy.json)"],
        "guides/workers.md": [f"[{bytes_sent.pop():.0f} bytes](../../../experiments/results/scaling.json)"],
    }
