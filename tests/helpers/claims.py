"""What the pages say in words about fuses, heads and energy, written anew from the committed results."""

from __future__ import annotations

from statistics import mean
from typing import Any

from experiments.paper import published
from tests.helpers.pages import one, rows, whole, with_sd

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

    best = [
        max(v for (t, *_, rate), v in published.RELAXED.items() if t == target and rate == 0.01)
        for target in ("resnet18", "vgg19")
    ]
    hard = one("bit_error_robustness", data="digits", hardening="randbet, 10 %", rate=0.05, chips_are="unseen")
    (clean,) = {row["clean"] for row in job}
    lost = [row["lost_points"] for row in job]
    bytes_sent = {row["bytes_per_probe"] for row in rows("scaling")}
    added = [row["added_ms"] for row in rows("proxy")]
    return [
        f"The classifier has {100 * clean:.1f} % at nominal voltage and loses {min(lost):.0f} to {max(lost):.0f} points on",
        f"(`rge`) brings {share('chip', 'rge', 100_000):.0f} % of what the white box wins back with as many "
        f"images, 100,000, on one "
        f"chip, and {share('population', 'rge', 300_000):.0f} % for the population with 300,000; methods that "
        f"probe the parameters "
        f"have {probing('chip', 100_000):.0f} % at best, and {probing('population', 30_000):.0f} % (with 30,000).",
        f"(`follow`) 95 % takes {needed('chip', 0.95)} images on one chip, and 90 % takes "
        f"{needed('population', 0.9)} for the pop",
        f"`follow` brings {large('follow', 30_000):.0f} % of the white box with 30,000 images and "
        f"{large('follow', 100_000):.0f} % "
        f"with 100,000; without a surrogate it is {large('rge, parameters', 30_000):.0f} % (a head alone: "
        f"{large('head', 1000):.0f} %).",
        f"`follow` and `affine` reach {fused('follow, affine (one chip)')} % from answers alone, more than its "
        f"fuse for all chips in "
        f"front of the same kind of target ({best[0]} and {best[1]} %); its fuse through the target reaches "
        f"{fused('backprop', study='relaxed', generator='UNetL', trained_rate=0.05)} % here.",
        f"a digits target has {100 - hard['robust_error_mean']:.0f} % at 5 % wrong bits, on chips never met.",
        f"which [costs](experiments/results/proxy.json) {min(added):.0f} to {max(added):.0f} ms a request",
        f"[{bytes_sent.pop():.0f} bytes](experiments/results/scaling.json) a probe",
    ]


def gradients_and_images() -> list[str]:
    control = [one("access_gap", method="control", setting=setting, owned=1437) for setting in ("chip", "population")]
    cosines = [
        max(row["cosine_mean"] for row in rows("alignment", method="rge")),
        mean(row["cosine_mean"] for row in rows("alignment", method="rge, parameters")),
    ]
    lost = {row["lost_mean"] for row in rows("cifar10", setting="chip")}
    population = {row["method"]: f"{row['recovered_mean']:.1f}" for row in rows("cifar10", setting="population")}
    return [
        f"({with_sd(control[0]['recovered_mean'], control[0]['recovered_sd'])} and "
        f"{with_sd(control[1]['recovered_mean'], control[1]['recovered_sd'])} points): a fuse earns",
        f"true gradient](results/alignment.json), {cosines[0]:.2f} against {cosines[1]:.2f} (",
        f"points won back of {max(lost):.0f} lost, {min(lost):.0f} on the first three chips ([table]",
        f"the head alone {population['head']} points, with a fuse by `follow` {population['follow']}, white-box "
        f"{population['backprop']} (it sees",
    ]


def paper() -> list[str]:
    (size,) = {row["clean"] for row in rows("paper", method="classifier of a fuse's size", owned=None)}
    at: dict[str, Any] = {"rate": 0.01, "bits": 8}
    targets = ("vgg11", "resnet20")

    def of(key: str, **named: Any) -> list[float]:
        return [float(100 * one("paper_cifar10", target=target, **at, **named)[key]) for target in targets]

    def apart(first: list[float], second: list[float]) -> str:
        return " and ".join(f"{a - b:.1f}" for a, b in zip(first, second, strict=True))

    one_chip, head = (
        of("fused_mean", method="follow, affine (one chip)"),
        of("fused_mean", method="head alone, affine (one chip)"),
    )
    white = of("fused_mean", method="backprop, affine (one chip)")
    shared = of("fused_mean", method="head alone, standardize (population)")
    bare = of("perturbed_mean", study="alternatives", method="no fuse")
    relaxed = of("fused_mean", study="relaxed", method="backprop", generator="UNetL")
    (clean,) = {row["clean"] for row in rows("paper_cifar10", study="alternatives", method="no fuse", target="vgg11", rate=0.01)}
    sizes = {
        owned: one("paper_cifar10", method="classifier of a fuse's size", target="vgg11", owned=owned)["clean"]
        for owned in (None, 2000)
    }
    saving = {
        row["method"]: 100 * row["saving"] for row in rows("paper_cifar10", target="vgg11", **at) if row["study"] != "restricted"
    }
    lower = one("paper_cifar10", study="alternatives", method="no fuse", target="vgg11", rate=0.002)
    batched = {(row["precision"], row["generator"], row["part"]): row["ms"] for row in rows("training", target="resnet20")}
    slower = [ms / batched[*key, "4 chips"] for (*key, part), ms in batched.items() if part == "4 chips in one pass"]
    return [
        f"and a classifier of a fuse's size has {100 * size:.1f} % at nominal voltage",
        f"a fuse by answers alone adds {apart(one_chip, head)} points, the white box {apart(white, one_chip)} more.",
        f"takes {apart(shared, of('fused_mean', method='follow, standardize (population)'))} points away",
        f"the paper's {published.RELAXED['vgg11', 'ConvL', 0.01]} on one chip ({one_chip[0]:.1f}; the target itself has "
        f"{100 * clean:.1f}, the paper's {published.CLEAN['vgg11']})",
        f"938 steps win {apart(relaxed, bare)} points",
        f"A classifier of a fuse's size has {100 * sizes[None]:.1f} % (all images owned, {100 * sizes[2000]:.1f} with 2,000)",
        f"Of the {saving['no fuse']:.0f} % of energy that the low voltage saves `UNetXS` leaves "
        f"{saving['follow, affine (one chip)']:.0f}, `UNetL` {saving['backprop']:.0f}; VGG11 bare at the voltage of 0.2 % errors "
        f"saves {100 * lower['saving']:.0f} with {100 * lower['perturbed_mean']:.1f} %,",
        f"slower on a processor ({min(slower):.1f} to {max(slower):.1f} times at 32x32)",
    ]


def fleet_and_misled() -> list[str]:
    with_head = [row["share"] for row in rows("fleet", head="affine") if row["arm"] in ("fresh", "from population")]
    alone = [100 * mean(row["share"] for row in rows("fleet", head="none", arm=arm)) for arm in ("fresh", "from population")]
    without = {row["seed"]: row["recovered"] for row in rows("misled", method="rge")}

    def cost(method: str, surrogates: set[str]) -> float:
        mine = [row for row in rows("misled", method=method) if row["surrogate"] in surrogates]
        return max(without[row["seed"]] - row["recovered"] for row in mine)

    learning = {"honest", "shuffled", "inverted", "foreign"}
    frozen = rows("misled", method="follow", surrogate="frozen")
    return [
        f"wins back {100 * mean(with_head):.0f} % of the lost points on average and {100 * min(with_head):.0f} % "
        f"at least, with or",
        f"without a head that fuse raises {alone[0]:.0f} to {alone[1]:.0f} % (",
        f"costs `guided` at most {cost('guided', learning):.0f} and `follow` at most "
        f"{cost('follow', learning):.0f} points on any of",
        f"costs `guided` {cost('guided', {'frozen'}):.0f} point on a chip, but `follow`, which has nothing else, all but "
        f"{mean(row['recovered'] for row in frozen):.0f} of {mean(without.values()):.0f}, with a trust of "
        f"{mean(row['trust_end'] for row in frozen):.2f} to say so",
    ]
