"""Every table of the pages that has numbers is made anew from the committed results: fuses and what they win back."""

from __future__ import annotations

from statistics import mean, pstdev
from typing import Any

from tests.helpers.pages import one, rows, table, whole, with_sd

PROBING_PARAMETERS = [
    "rge, parameters", "spsa", "spsa-gc", "fzoo", "nes", "pgpe", "cma, subspace", "cma, diagonal", "nevergrad, DiagonalCMA",
    "nevergrad, OnePlusOne",
]  # fmt: skip


def spread(values: list[float], scale: float = 100.0) -> str:
    return with_sd(mean(values), pstdev(values), scale)


def test_the_main_job() -> None:
    found = table("main job")
    arms = ["fuse and head, strict", "fuse alone, strict", "fuse alone, white-box", "fuse and head, white-box"]
    with_head = rows("main_job", arm=arms[0])
    expected = [
        ["no protection", "", spread([row["perturbed"] for row in with_head]), "0"],
        [
            "head alone (`affine`)", "1,150", spread([row["head_alone"] for row in with_head]),
            spread([row["head_share"] for row in with_head]),
        ],
    ]  # fmt: skip
    for arm in arms:
        mine = rows("main_job", arm=arm)
        (images,) = {row["images"] for row in mine}
        expected.append([arm, whole(images), spread([row["fused"] for row in mine]), spread([row["share"] for row in mine])])
    assert found == expected


def gap(setting: str, method: str, images: int, head: str = "none") -> dict[str, Any]:
    return one("access_gap", setting=setting, method=method, images=images, head=head, owned=1437, labels="given")


def test_how_far_from_gradients() -> None:
    found = table("far from gradients")
    at = (10_000, 30_000, 100_000, 300_000)

    def line(setting: str, method: str, head: str = "none") -> list[str]:
        made = [gap(setting, method, images, head) for images in at]
        return [with_sd(row["recovered_mean"], row["recovered_sd"]) for row in made]

    best = []
    for images in at:
        all_rows = rows("access_gap", setting="chip", images=images, head="none", owned=1437)
        tried = [row for row in all_rows if row["method"] in PROBING_PARAMETERS]
        row = min(tried, key=lambda row: (-round(row["recovered_mean"], 6), row["recovered_sd"]))
        best.append(with_sd(row["recovered_mean"], row["recovered_sd"]))
    alone = one("access_gap", setting="population", method="head", owned=1437)["recovered_mean"]
    assert found == [
        ["one chip: white-box", *line("chip", "backprop")],
        ["one chip: `rge`, answers alone", *line("chip", "rge")],
        ["one chip: best of those that probe parameters", *best],
        ["[population](results/access_gap_population.svg): white-box", *line("population", "backprop")],
        ["population: `rge`, answers alone", *line("population", "rge")],
        [f"population: `rge` and `standardize` ({alone:.1f} alone)", *line("population", "rge", "standardize")],
    ]


def test_with_few_images() -> None:
    found = table("few images")
    columns = [("chip", 0.8), ("chip", 0.9), ("chip", 0.95), ("population", 0.5), ("population", 0.8), ("population", 0.9)]
    names = {"`follow`": "follow", "`guided`": "guided", "`rge`, no surrogate": "rge",
             "`transfer`, surrogate of labels alone": "transfer"}  # fmt: skip
    expected = []
    for name, method in names.items():
        line = [name]
        for setting, share in columns:
            made = rows("query_efficiency", setting=setting, method=method, share=share)
            needed = made[0]["images_median"] if made else None
            line.append("" if needed is None else whole(needed))
        expected.append(line)
    assert found == expected


def large(method: str, images: int | None, owned: int = 45_000, labels: str = "given", **more: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"setting": "chip", "method": method, "owned": owned, "labels": labels, **more}
    return one("cifar10", **named) if images is None else one("cifar10", images=images, **named)


def points(row: dict[str, Any]) -> str:
    return with_sd(row["recovered_mean"], row["recovered_sd"])


def share(row: dict[str, Any]) -> str:
    return f"{100 * row['share_mean']:.0f} ± {100 * row['share_sd']:.0f} %"


def test_at_32x32() -> None:
    found = table("32x32")
    few, many = 30_000, 100_000
    expected = [["white-box", points(large("backprop", few)), "", points(large("backprop", many)), ""]]
    for name, method in (
        ("`follow`, surrogate of another family", "follow"),
        ("`rge` of a fuse of 883 parameters, no surrogate", "rge, parameters"),
    ):
        made = [large(method, few), large(method, many)]
        assert [row["seeds"] for row in made] == [5, 3]
        expected.append([name, points(made[0]), share(made[0]), points(made[1]), share(made[1])])
    for name, method in (("head alone, 1,000 sent", "head"), ("classifier of the fuse's size, used instead", "control")):
        row = large(method, None)
        expected.append([name, points(row), share(row), "", ""])
    assert found == expected


def test_at_32x32_with_few_images() -> None:
    found = table("32x32, few images")
    columns = [(500, "given"), (500, "target"), (2000, "given"), (2000, "target")]
    names = {"white-box": "backprop", "`follow`": "follow", "head alone": "head",
             "classifier of the fuse's size, used instead": "control"}  # fmt: skip
    expected = []
    for name, method in names.items():
        line = [name]
        for owned, labels in columns:
            made = rows("cifar10", setting="chip", method=method, owned=owned, labels=labels)
            assert all(row["seeds"] == 3 for row in made)
            line.append(points(made[0]) if made else "")
        expected.append(line)
    assert found == expected


def paper(result: str, key: str = "fused", **named: Any) -> str:
    row = one(result, bits=8, **named)
    return with_sd(row[f"{key}_mean"], row[f"{key}_sd"], 100)


def test_the_claims_of_neuralfuse_on_digits() -> None:
    found = table("claims")
    other = {"digits-residual": "digits", "digits": "digits-residual"}

    def line(name: str, study: str, key: str = "fused", source: str | None = None, **named: Any) -> list[str]:
        cells = []
        for target in other:
            of = {"own": target, "other": other[target], "both": "digits-residual+digits", None: None}[source]
            cells.append(paper("paper", key, study=study, target=target, source=of, rate=0.05, owned=None, **named))
        return [name, f"`{study}`", *cells]

    through: dict[str, Any] = {"generator": "UNetL", "method": "backprop", "trained_rate": 0.05, "images": 360_000}
    best = [
        max((r for r in rows("paper", study="relaxed", method="backprop", paper_target=target, paper_rate=0.01)
             if r["paper_fused_mean"] is not None), key=lambda row: row["paper_fused_mean"])["paper_fused_mean"]
        for target in ("resnet18", "vgg19")
    ]  # fmt: skip
    assert found[:-1] == [
        line("without a fuse", "alternatives", "perturbed", method="no fuse"),
        line("fuse through the target, UNetL, 360,000 images", "relaxed", source="own", **through),
        line("the same fuse carried over from the other target", "restricted", source="other", **through),
        line("trained through both targets", "restricted", source="both", **through),
        line("by answers alone, `follow`, UNetL, 30,000 images", "strict", method="follow, UNetL (population)", images=30_000),
        line(
            "and `standardize`, a fuse of 8,320 parameters", "strict", method="follow, standardize (population)", images=30_000
        ),
        line(
            "**one chip** by answers alone, `follow` and `affine`, 10,000 images, 5 chips", "strict",
            method="follow, affine (one chip)", images=10_000, chips=5,
        ),
        line(
            "one chip with gradients and `affine`, 10,000 images, 5 chips", "relaxed",
            method="backprop, affine (one chip)", images=10_000, chips=5,
        ),
    ]  # fmt: skip
    assert [cell.split(" ± ")[0] for cell in found[-1][2:]] == [f"{100 * mean:.1f}" for mean in best]


def test_the_six_generators() -> None:
    found = table("generators")
    names = ["ConvL", "ConvS", "DeConvL", "DeConvS", "UNetL", "UNetS"]

    def line(target: str, rate: float, key: str) -> list[str]:
        made = [
            one("paper", study="relaxed", method="backprop", target=target, generator=name, rate=rate, trained_rate=rate, bits=8)
            for name in names
        ]
        return [f"{100 * row[key]:.1f}" for row in made]

    def bare(target: str, rate: float) -> str:
        return f"{100 * one('paper', study='alternatives', method='no fuse', target=target, rate=rate)['perturbed_mean']:.1f}"

    assert found[0] == ["plain target, 5 %", *line("digits", 0.05, "fused_mean"), bare("digits", 0.05)]
    assert found[1][1:7] == line("digits", 0.05, "paper_fused_mean")
    assert found[2] == ["residual target, 2 %", *line("digits-residual", 0.02, "fused_mean"), bare("digits-residual", 0.02)]
    assert found[3] == ["residual target, 5 %", *line("digits-residual", 0.05, "fused_mean"), bare("digits-residual", 0.05)]
    assert found[4][1:7] == line("digits-residual", 0.05, "paper_fused_mean")


def test_the_papers_rates_at_32x32() -> None:
    result, targets = "paper_cifar10", ("vgg11", "resnet20")

    def line(name: str, study: str, key: str = "fused", of: str | None = None, **named: Any) -> list[str]:
        shown = named.pop("shown", study)
        cells = []
        for target, other in zip(targets, reversed(targets), strict=True):
            source = {"own": target, "other": other, None: None}[of]
            cells.append(paper(result, key, study=study, target=target, rate=0.01, source=source, **named))
        return [name, f"`{shown}`", *cells]

    through = {"generator": "UNetL", "method": "backprop", "images": 300_000}
    alone = {"method": "head alone, affine (one chip)", "images": 2_000, "chips": 3}
    bare = [one(result, study="alternatives", method="no fuse", target=target, rate=0.01) for target in targets]
    assert table("paper's rates") == [
        ["no errors", "`alternatives`", *(f"{100 * row['clean']:.1f}" for row in bare)],
        line("without a fuse, 10 chips", "alternatives", "perturbed", method="no fuse", chips=10),
        line("fuse through the target, UNetL, 300,000 images", "relaxed", of="own", **through),
        line("the same fuse carried over from the other target", "restricted", of="other", **through),
        line("by answers alone, `standardize`, 50 images a chip", "strict", method="head alone, standardize (population)"),
        line("and a fuse by `follow`, 30,000 images", "strict", method="follow, standardize (population)", images=30_000),
        line("one chip, 3 chips: without", "strict", "perturbed", shown="alternatives", **alone),
        line("one chip, `affine` alone, 2,000 images", "strict", **alone),
        line("one chip, `follow` and `affine`, 30,000 images", "strict", method="follow, affine (one chip)", images=30_000),
        line("one chip with gradients and `affine`, 30,000 images", "relaxed", method="backprop, affine (one chip)"),
    ]
