"""Pages and claims are generated from the committed results, and are committed as generated."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, pstdev

import pytest

from experiments import claims, selected, tables
from experiments.study import RESULTS
from tests.helpers.documents.pages import MAIN_JOB, ROOT, rows, tables_of, whole, with_sd


def test_the_committed_pages_are_those_that_the_results_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([]) == 0, f"run python -m experiments.tables --write: {capsys.readouterr().out}"
    assert capsys.readouterr().out == ""


def test_every_result_has_a_page_and_no_page_is_left_over() -> None:
    assert {path.stem for path in RESULTS.glob("*.json")} == set(tables.PAGES)
    assert {path.stem for path in (ROOT / "docs" / "results").glob("*.md")} == set(tables.PAGES)


def test_a_page_has_the_text_the_command_the_figures_and_the_table() -> None:
    page = (ROOT / "docs" / "results" / "main_job.md").read_text()
    assert page.startswith("# main_job\n\nThe main job on five chips")
    for words in (
        "`python -m experiments.main_job` shows",
        "![main_job.svg]",
        "torch 2.13.0",
        "| fuse alone, strict | 149,856 |",
    ):
        assert words in page
    assert "`" * 2 not in page
    larger = (ROOT / "docs" / "results" / "paper_cifar10.md").read_text()
    assert "`python -m experiments.paper --tier cifar10` shows" in larger
    assert "vgg11" in larger
    assert "access_gap_population.svg" in (ROOT / "docs" / "results" / "access_gap.md").read_text()


def test_stale_pages_are_named_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PAGES", {"main_job": ""})
    (tmp_path / "experiments").mkdir()
    readme = tmp_path / "experiments" / "README.md"
    readme.write_text(f"before\n{tables.MARKS[0]}\nold\n{tables.MARKS[1]}\nafter\n")
    assert tables.main([]) == 1
    assert capsys.readouterr().out == "docs/results/main_job.md: out of date\nexperiments/README.md: out of date\n"
    assert not (tmp_path / "docs").exists()
    assert tables.main(["--write"]) == 0
    assert "written" in capsys.readouterr().out
    assert tables.main([]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{tables.MARKS[0]}\n\n## The main job\n\n* Digits")
    assert text.endswith(f"{tables.MARKS[1]}\nafter\n")
    assert "old" not in text
    assert tables.main(["--nonsense"]) == 2


def test_every_claim_names_results_that_have_a_page() -> None:
    made = [claim for section in claims.SECTIONS.values() for claim in section()]
    assert len(made) > 30
    assert {name for claim in made for name in claim.results} <= set(tables.PAGES)
    assert all(claim.results for claim in made)


def test_a_claim_follows_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = (claim.text for claim in claims.main_job())
    changed = [{**row, "share": row["share"] / 2, "fused": row["fused"] - 0.1} for row in rows("main_job")]
    monkeypatch.setattr(selected, "_rows_of", {"main_job": changed}.__getitem__)
    (after,) = (claim.text for claim in claims.main_job())
    assert "98.2 % (99.7 % of the lost points recovered)" in before
    assert "88.2 % (49.8 % of the lost points recovered)" in after


def of_file(name: str, **values: object) -> list[dict[str, float]]:
    """Rows read from the file itself."""
    found = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return [row for row in found if values.items() <= {key: row.get(key) for key in values}.items()]


def test_claims_computed_another_way() -> None:
    """Some sentences with their numbers from the rows of single chips, or by formulas of their own."""
    text = (ROOT / "experiments" / "README.md").read_text()
    share = [row["recovered_mean"] for row in of_file("access_gap", setting="population", head="none", images=300_000)]
    assert f"{100 * min(share) / max(share):.0f} % for the population" in text
    fleet = of_file("fleet", head="affine", arm="fresh") + of_file("fleet", head="affine", arm="from population")
    least = min(100 * (row["fused"] - row["perturbed"]) / (row["clean"] - row["perturbed"]) for row in fleet)
    assert f"and {least:.0f} % at least" in text
    frozen = of_file("misled", method="follow", surrogate="frozen")
    rge = of_file("misled", method="rge")
    assert (
        f"`follow` recovers {sum(r['recovered'] for r in frozen) / 5:.0f} of {sum(r['recovered'] for r in rge) / 5:.0f}" in text
    )
    (head,) = of_file("cifar10", setting="population", method="head")
    assert f"the head alone recovers {head['recovered_mean']:.1f} points, with a fuse" in text
    flips = [r["flips"] for n in ("clip", "clip, advbet") for r in of_file("bit_attacks", hardening=n, attack="projected")
             if r["robust_error"] > 50]  # fmt: skip
    assert f"takes {max(flips) // min(flips)} times as many chosen flips" in text
    for name, saved in (("no fuse", 30), ("follow, affine (one chip)", 28)):
        (row,) = of_file("paper_cifar10", target="vgg11", method=name, rate=0.01, bits=8, study=_STUDY[name])
        assert round(100 * row["saving"]) == saved


_STUDY = {"no fuse": "alternatives", "follow, affine (one chip)": "strict"}


def test_the_main_job_in_readme() -> None:
    def spread(values: list[float]) -> str:
        return with_sd(mean(values), pstdev(values), 100)

    found = tables_of("README.md")[MAIN_JOB]
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


def test_the_pages_have_no_other_table_of_numbers() -> None:
    assert {*tables_of("README.md"), *tables_of("experiments/README.md")} == {MAIN_JOB}
