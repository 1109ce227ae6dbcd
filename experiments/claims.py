"""What the committed results say, in sentences whose numbers are computed from their rows: fuses, heads, energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

from experiments.claims_of_targets import families, layers, resisting, speed
from experiments.paper import published
from experiments.selected import Claim, one, points, rows

__all__ = ["SECTIONS", "Claim"]

ALL = 1437  # images owned in the studies of digits


def main_job() -> Iterator[Claim]:
    """The main job."""
    lost = [row["lost_points"] for row in rows("main_job")]
    (clean,) = {row["clean"] for row in rows("main_job")}
    strict = rows("main_job", arm="fuse and head, strict")
    (images,) = {row["images"] for row in strict}
    fused, head, share, alone = (mean(100 * row[key] for row in strict) for key in ("fused", "head_alone", "share", "head_share"))
    yield Claim(
        f"digits, 5 % bit errors, five chips: {100 * clean:.1f} % at nominal voltage, {min(lost):.0f} to {max(lost):.0f} "
        f"points lost; fuse and head with {images:,} images sent have {fused:.1f} % ({share:.1f} % of the lost points "
        f"recovered), the head alone {head:.1f} % ({alone:.1f} %)",
        "main_job",
    )  # fmt: skip


def gradients_and_queries() -> Iterator[Claim]:
    """Strict access beside the white box."""
    gap = rows("access_gap", head="none", owned=ALL, labels="given")

    def share(setting: str, method: str, images: int) -> float:
        (row,) = (r for r in gap if (r["setting"], r["method"], r["images"]) == (setting, method, images))
        return float(100 * row["share_mean"])

    def probing(setting: str, images: int) -> float:
        others = {"rge", "rge, plain", "backprop", "control", "head"}
        at = [r for r in gap if (r["setting"], r["images"]) == (setting, images) and r["method"] not in others]
        return float(max(100 * row["share_mean"] for row in at))

    yield Claim(
        f"`rge`, which probes the inputs, recovers {share('chip', 'rge', 100_000):.0f} % of the white-box recovery at the "
        f"same query budget (100,000 images, one chip) and {share('population', 'rge', 300_000):.0f} % for the population "
        f"(300,000); methods that probe the parameters {probing('chip', 100_000):.0f} % (100,000) and "
        f"{probing('population', 30_000):.0f} % (30,000) at best",
        "access_gap",
    )  # fmt: skip
    chip, population = (one("access_gap", method="control", setting=setting, owned=ALL) for setting in ("chip", "population"))
    yield Claim(
        "on digits a classifier of the fuse's own size, trained on the owned images and used instead of the target, "
        f"recovers more than all of them: {points(chip)} and {points(population)} points",
        "access_gap",
    )  # fmt: skip
    inputs = max(row["cosine_mean"] for row in rows("alignment", method="rge"))
    parameters = mean(row["cosine_mean"] for row in rows("alignment", method="rge, parameters"))
    yield Claim(
        f"estimates from probes of the inputs have a cosine of {inputs:.2f} with the true gradient, of the parameters "
        f"{parameters:.2f}",
        "alignment",
    )  # fmt: skip

    def needed(setting: str, share: float) -> str:
        return f"{one('query_efficiency', setting=setting, method='follow', share=share)['images_median']:,.0f}"

    yield Claim(
        f"through a surrogate that follows the target (`follow`) 95 % of the white-box recovery takes {needed('chip', 0.95)} "
        f"images on one chip, and 90 % takes {needed('population', 0.9)} for the population",
        "query_efficiency",
    )  # fmt: skip


def at_32x32() -> Iterator[Claim]:
    """CIFAR-10 as JPEG files."""

    def share(method: str, images: int) -> float:
        return float(100 * one("cifar10", setting="chip", method=method, owned=45_000, images=images)["share_mean"])

    def few(method: str, owned: int) -> str:
        return points(one("cifar10", setting="chip", method=method, owned=owned, labels="given"))

    lost = {row["lost_mean"] for row in rows("cifar10", setting="chip")}
    yield Claim(
        f"CIFAR-10 (JPEG), a residual target, fuse and head on single chips that lose {min(lost):.0f} to {max(lost):.0f} "
        f"points: `follow` recovers {share('follow', 30_000):.0f} % of the white-box recovery with 30,000 images and "
        f"{share('follow', 100_000):.0f} % with 100,000; without a surrogate {share('rge, parameters', 30_000):.0f} %, the "
        f"head alone {share('head', 1000):.0f} %, and a classifier of the fuse's size, trained on all owned images, "
        f"{share('control', 0):.0f} %",
        "cifar10",
    )  # fmt: skip
    yield Claim(
        f"with 500 images owned the head alone recovers {few('head', 500)} points, `follow` {few('follow', 500)}; with 2,000 "
        f"it is {few('head', 2000)} and {few('follow', 2000)}",
        "cifar10",
    )  # fmt: skip
    population = {row["method"]: row["recovered_mean"] for row in rows("cifar10", setting="population")}
    yield Claim(
        f"for the population the head alone recovers {population['head']:.1f} points, with a fuse by `follow` "
        f"{population['follow']:.1f}, white-box {population['backprop']:.1f} (one seed, 30,000 images)",
        "cifar10",
    )  # fmt: skip


def neuralfuse() -> Iterator[Claim]:
    """NeuralFuse's own study."""

    def fused(method: str, **more: Any) -> str:
        at = {"method": method, "rate": 0.05, "bits": 8, "owned": None, **more}
        return " and ".join(f"{100 * one('paper', target=t, **at)['fused_mean']:.1f}" for t in ("digits-residual", "digits"))

    best = [
        max(v for (t, *_, rate), v in published.RELAXED.items() if t == target and rate == 0.01)
        for target in ("resnet18", "vgg19")
    ]
    through: dict[str, Any] = {"method": "backprop", "generator": "UNetL", "trained_rate": 0.05}
    both = (("digits", "digits-residual"), ("digits-residual", "digits"))
    restricted = [one("paper", study="restricted", source=source, target=target, rate=0.05, **through) for source, target in both]
    transferred = " and ".join(f"{100 * row['fused_mean']:.1f}" for row in restricted)
    size = one("paper", method="classifier of a fuse's size", owned=None, target="digits")["clean"]
    yield Claim(
        "small targets that lose as much as the paper's: for one chip `follow` and `affine` reach "
        f"{fused('follow, affine (one chip)')} % with strict access (the paper's best fuse for all chips: {best[0]} and "
        f"{best[1]} %); a fuse trained through the target reaches {fused(study='relaxed', **through)} %, transferred from "
        f"the other target {transferred} %; a classifier of a fuse's size has {100 * size:.1f} % at nominal voltage",
        "paper",
    )  # fmt: skip
    yield from _neuralfuse_at_32x32()


def _neuralfuse_at_32x32() -> Iterator[Claim]:
    at: dict[str, Any] = {"rate": 0.01, "bits": 8}
    targets = ("vgg11", "resnet20")

    def of(key: str, **named: Any) -> list[float]:
        return [float(100 * one("paper_cifar10", target=target, **at, **named)[key]) for target in targets]

    def apart(first: list[float], second: list[float]) -> str:
        return " and ".join(f"{a - b:.1f}" for a, b in zip(first, second, strict=True))

    one_chip, head = (of("fused_mean", method=f"{name}, affine (one chip)") for name in ("follow", "head alone"))
    white = of("fused_mean", method="backprop, affine (one chip)")
    shared, with_fuse = (of("fused_mean", method=f"{name}, standardize (population)") for name in ("head alone", "follow"))
    bare = of("perturbed_mean", study="alternatives", method="no fuse")
    relaxed = of("fused_mean", study="relaxed", method="backprop", generator="UNetL")
    yield Claim(
        f"at the paper's rate on CIFAR-10 (JPEG), VGG11 and a residual target: on one chip `affine` alone has {head[0]:.1f} "
        f"and {head[1]:.1f} %, a fuse by `follow` adds {apart(one_chip, head)} points, the white box "
        f"{apart(white, one_chip)} more",
        "paper_cifar10",
    )  # fmt: skip
    yield Claim(
        f"for the population `standardize` alone recovers {apart(shared, bare)} points, a fuse by `follow` takes "
        f"{apart(shared, with_fuse)} points away, and a fuse through the target recovers {apart(relaxed, bare)} "
        f"(the paper's has {published.RELAXED['vgg11', 'UNetL', 0.01]} % on VGG11)",
        "paper_cifar10",
    )  # fmt: skip
    saving = {r["method"]: 100 * r["saving"] for r in rows("paper_cifar10", target="vgg11", **at) if r["study"] != "restricted"}
    lower = one("paper_cifar10", study="alternatives", method="no fuse", target="vgg11", rate=0.002)
    yield Claim(
        f"of the {saving['no fuse']:.0f} % of energy that the low voltage saves on VGG11, `UNetXS` leaves "
        f"{saving['follow, affine (one chip)']:.0f} and `UNetL` {saving['backprop']:.0f}; VGG11 alone at the voltage of 0.2 "
        f"% bit errors saves {100 * lower['saving']:.0f} with {100 * lower['perturbed_mean']:.1f} % accuracy",
        "paper_cifar10",
    )  # fmt: skip


def fleets_and_surrogates() -> Iterator[Claim]:
    """A fleet of chips, and surrogates that mislead."""
    arms = ("fresh", "from population")
    with_head = [100 * row["share"] for row in rows("fleet", head="affine") if row["arm"] in arms]
    alone = [100 * mean(row["share"] for row in rows("fleet", head="none", arm=arm)) for arm in arms]
    yield Claim(
        f"20 unseen chips, at most 5,000 images each: `follow` with an affine head recovers {mean(with_head):.0f} % of the "
        f"lost points on average and {min(with_head):.0f} % at least; without a head a fuse pretrained for the population "
        f"raises the mean from {alone[0]:.0f} to {alone[1]:.0f} %",
        "fleet",
    )  # fmt: skip
    without = {row["seed"]: row["recovered"] for row in rows("misled", method="rge")}

    def cost(method: str, *surrogates: str) -> float:
        mine = [row for row in rows("misled", method=method) if row["surrogate"] in surrogates]
        return float(max(without[row["seed"]] - row["recovered"] for row in mine))

    updated = ("honest", "shuffled", "inverted", "foreign")
    frozen = rows("misled", method="follow", surrogate="frozen")
    yield Claim(
        f"a misleading surrogate that is updated costs `guided` at most {cost('guided', *updated):.0f} and `follow` at most "
        f"{cost('follow', *updated):.0f} points on any of five chips; one that is never updated costs `guided` "
        f"{cost('guided', 'frozen'):.0f} point, and `follow` recovers {mean(row['recovered'] for row in frozen):.0f} of "
        f"{mean(without.values()):.0f} points with a reported trust of {mean(row['trust_end'] for row in frozen):.2f}",
        "misled",
    )  # fmt: skip


def domain_shift() -> Iterator[Claim]:
    """A healthy target on images of another domain."""
    for data in dict.fromkeys(row["data"] for row in rows("domain_shift")):

        def share(method: str, data: str = data) -> str:
            found = {row["shift"]: mean(row["recovered"]) for row in rows("domain_shift", data=data, method=method)}
            return ", ".join(f"{100 * found[shift]:.0f}" for shift in ("gain", "inversion", "blur"))

        def accuracy(key: str, data: str = data) -> str:
            found = {row["shift"]: row[key] for row in rows("domain_shift", data=data, method="head alone")}
            return ", ".join(f"{found[shift]:.1f}" for shift in ("gain", "inversion", "blur"))

        (plain,) = {row["plain"] for row in rows("domain_shift", data=data)}
        worst = min(row["worst_points"] for row in rows("domain_shift", data=data) if row["kept"])
        yield Claim(
            f"{data}, no chip, images of another gain, inverted, blurred: a target with {plain:.1f} % on plain images has "
            f"{accuracy('uncorrected')} %; with 20,000 images sent `spsa` with a 5x5 filter that starts from simple corrections "
            f"recovers {share('spsa, Filter')} % of the lost points, with gradients {share('white box, Filter')} %, BlackVIP's "
            f"SPSA-GC with the same start {share('spsa-gc, Filter')} % and with a large generator from zero "
            f"{share('spsa-gc, large')} %, the head alone {share('head alone')} %, a classifier of the fuse's size "
            f"{share('control')} %; the worst run is {worst:+.1f} points from the uncorrected target",
            "domain_shift",
        )  # fmt: skip


SECTIONS: dict[str, Callable[[], Iterator[Claim]]] = {
    "The main job": main_job, "Strict access and gradients": gradients_and_queries, "At 32x32": at_32x32,
    "Domain shift": domain_shift,
    "NeuralFuse's study": neuralfuse, "Fleets and surrogates": fleets_and_surrogates, "Targets that tolerate errors": resisting,
    "Across the layers": layers, "Families of targets": families, "Memories and speed": speed,
}  # fmt: skip
