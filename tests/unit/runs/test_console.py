"""What is printed is what the summary, the plan and the clock say."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bbfuse import progress
from bbfuse.callbacks.base import Status
from bbfuse.cli.tables import closing_table, plan_table
from bbfuse.progress import ProgressDisplay
from tests.helpers.studies.summaries import made_summary

FUSE_ALONE = "fuse alone: this run's fuse without its head; to use a fuse alone, train one without a head"
ENERGY = "84 % of the voltage saves 33.6 % of the energy of weight reads, 13.7 % with the fuse in front"
SENT = "51.9 points lost, 38.7 recovered; 18,453 images in 1,276 requests (budget 20,500); 84 s"


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], list[str]]:
    """The cells of the table and the lines around it, from standard output."""
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if re.match("[│┃]", line)]
    return cells, [line for line in lines if not re.match("[│┃┏┡└├]", line)]


def test_the_closing_table_gives_accuracies_with_their_spread_and_the_shares_won_back(capsys: pytest.CaptureFixture[str]) -> None:
    closing_table(made_summary())
    cells, lines = printed(capsys)
    assert cells == [
        ["", "accuracy", "recovered"],
        ["nominal voltage", "93.1 %", ""],
        ["no protection", "41.2 ± 3.1 %", ""],
        ["head alone", "58.3 ± 4.7 %", "33 %"],
        ["fuse alone", "64.7 ± 1.8 %", "45 %"],
        ["fuse and head", "79.9 ± 2.6 %", "75 %"],
    ]
    assert lines == ["Held-out accuracy, 3.75 % bit errors, 3 unseen chips", FUSE_ALONE, ENERGY, SENT]


def test_one_chip_has_a_number_and_no_spread(capsys: pytest.CaptureFixture[str]) -> None:
    summary = made_summary(chips=1, head="none", saving=None)
    closing_table(summary)
    cells, lines = printed(capsys)
    assert [row[1] for row in cells[1:]] == ["93.1 %", "41.2 %", "58.3 %", "64.7 %", "79.9 %"]
    assert lines == ["Held-out accuracy, 3.75 % bit errors, chip 29", SENT]
    summary["config"]["chip_seed"] = 0
    closing_table(summary)
    assert printed(capsys)[1][0] == "Held-out accuracy, 3.75 % bit errors, chip 0"


def test_two_chips_have_a_spread(capsys: pytest.CaptureFixture[str]) -> None:
    summary = made_summary(chips=2)
    summary["accuracy"]["perturbed"]["sd"] = 0.231
    closing_table(summary)
    cells, lines = printed(capsys)
    assert cells[2][1] == "41.2 ± 23.1 %"
    assert lines[0] == "Held-out accuracy, 3.75 % bit errors, 2 unseen chips"


@pytest.mark.parametrize(
    ("clean", "shares"),
    [(0.412, ["", "", "", "", ""]), (0.4, ["", "", "", "", ""]), (0.512, ["", "", "171 %", "235 %", "387 %"])],
)
def test_shares_are_of_what_was_lost_if_anything_was(clean: float, shares: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    summary = made_summary()
    summary["accuracy"]["clean"] = clean
    closing_table(summary)
    assert [row[2] for row in printed(capsys)[0][1:]] == shares


FORETOLD = "the surrogate predicted {} % of the variance of the last responses"


@pytest.mark.parametrize(
    ("trust", "line"),
    [
        (0.2, FORETOLD.format(20)), (0.74, FORETOLD.format(74)), (0.1999, FORETOLD.format(20) + ": its gradients were not used"),
        (0.0, FORETOLD.format(0) + ": its gradients were not used"),
        (-0.13, FORETOLD.format(-13) + ": its gradients were not used"),
    ],
)  # fmt: skip
def test_a_surrogate_is_trusted_from_a_fifth_of_the_variance_on(
    trust: float, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    closing_table({**made_summary(), "trust": trust})
    assert printed(capsys)[1][2] == line


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({"deterministic": True, "honours_chip": True, "noise": None, "drift": None}, []),
        ({"deterministic": None, "honours_chip": None, "noise": None, "drift": None}, []),
        ({"deterministic": False, "noise": 0.0347},
         ["responses are not repeatable: the same query changed a logit by 3.5 % of their spread"]),
        ({"deterministic": False, "noise": 0.0344},
         ["responses are not repeatable: the same query changed a logit by 3.4 % of their spread"]),
        ({"honours_chip": False}, ["responses were the same at nominal voltage and on a chip"]),
        ({"drift": 0.0}, ["drift: during the run a logit changed by at most 0 % of their spread"]),
        ({"drift": 0.00276}, ["drift: during the run a logit changed by at most 0.28 % of their spread"]),
        ({"drift": 0.00273}, ["drift: during the run a logit changed by at most 0.27 % of their spread"]),
    ],
)  # fmt: skip
def test_what_was_found_of_the_target_is_said(
    found: dict[str, Any], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    closing_table({**made_summary(), "target": found})
    assert printed(capsys)[1] == [
        "Held-out accuracy, 3.75 % bit errors, 3 unseen chips", FUSE_ALONE, *lines, ENERGY, SENT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "kept", "words"),
    [
        (1234.567, 0, "1,276 requests that cost 1,234.57 (budget 20,500); 84 s"),
        (0.0, 3_210, "1,276 requests that cost 0.00 (budget 20,500), 3,210 more from the cache; 84 s"),
        (None, 1, "1,276 requests (budget 20,500), 1 more from the cache; 84 s"),
    ],
)
def test_cost_and_what_was_kept_are_said_where_there_is_any(
    cost: float | None, kept: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = made_summary()
    summary["queries"] |= {"cost": cost, "kept": kept}
    closing_table(summary)
    assert printed(capsys)[1][-1].endswith(words)


def test_the_summary_of_an_older_run_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    summary = made_summary()
    del summary["queries"]["cost"], summary["queries"]["kept"], summary["trust"], summary["target"]
    closing_table(summary)
    assert printed(capsys)[1][-1] == SENT


def made_plan(watched: int = 24) -> dict[str, Any]:
    sent = {
        "watch": (watched, 3),
        "warm_up": (1_150, 9),
        "training": (13_536, 846),
        "validation": (700, 7),
        "report": (1_440, 12),
    }
    return {
        "steps": 1_692, "exact": True, "kept_back": 3_150, "bytes": None,
        "purposes": {name: {"images": images, "requests": requests} for name, (images, requests) in sent.items()},
        "queries": {"images": 16_850, "requests": 877, "budget": 20_000, "cost": None, "kept": 0},
    }  # fmt: skip


def test_the_plan_gives_what_each_purpose_sends(capsys: pytest.CaptureFixture[str]) -> None:
    plan_table(made_plan())
    told = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in told if re.match("[│┃]", line)]
    assert rows == [
        ["", "images", "requests"],
        ["drift checks", "24", "3"],
        ["labels and head", "1,150", "9"],
        ["training, 1,692 steps", "13,536", "846"],
        ["validation", "700", "7"],
        ["closing report", "1,440", "12"],
        ["sent", "16,850", "877"],
        ["reserve", "3,150", ""],
    ]
    (rule,) = [number for number, line in enumerate(told) if line.startswith("├")]
    assert "closing report" in told[rule - 1]
    assert told[-1] == (
        "16,850 images in 877 requests (budget 20,000); exact without retries, which use the reserve "
        "first, then the budget for training"
    )


def test_a_plan_names_cost_and_size_and_leaves_out_what_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    plan = {**made_plan(watched=0), "exact": False, "bytes": {"up": 123_456_000_000, "down": 781_000}}
    plan["queries"] |= {"cost": 17.5}
    plan_table(plan)
    cells, lines = printed(capsys)
    assert [row[0] for row in cells[1:3]] == ["labels and head", "training, 1,692 steps"]
    assert lines == [
        "16,850 images in 877 requests that cost 17.50 (budget 20,000); about 123,456.0 MB up and 0.8 MB down, without HTTP "
        "headers; at most that, since a smaller fuse may send less, without retries, which "
        "use the reserve first, then the budget for training"
    ]


def test_one_image_about_the_target_itself_is_in_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan_table(made_plan(watched=1))
    assert printed(capsys)[0][1] == ["drift checks", "1", "3"]


def shown(steps: int, seen: list[int], clock: Callable[[int], float], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is said of the steps ``seen``, each at the time that ``clock`` says."""
    times = iter([clock(step) for step in seen])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
        with ProgressDisplay() as show:
            for step in seen:
                show.update(Status(1_000 + step, 20_500, step, steps, step / 7, 0.3 + step / 100))
    told = capsys.readouterr()
    assert told.out == ""
    return told.err.splitlines()


def test_ten_lines_are_said_of_a_run_and_the_time_left_at_its_mean_pace(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(37, list(range(1, 38)), lambda step: 100.0 + 3 * step**2, capsys)
    expected = []
    for step in (4, 8, 12, 15, 19, 23, 26, 30, 34, 37):  # the first at or after each tenth: 3.7, 7.4, ...
        pace = (3 * step**2 - 3) / (step - 1)
        expected.append(
            f"1,0{step:02} of 20,500 images, loss {step / 7:.3f}, validation {30 + step:.1f} %, "
            f"about {pace * (37 - step):.0f} s left"
        )
    assert said == expected


def test_every_step_is_said_where_there_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in shown(3, [1, 2, 3], float, capsys)] == ["1,001", "1,002", "1,003"]


def test_a_run_that_goes_on_counts_from_where_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(37, [20, 21, 23, 37], lambda step: 900.0 + 8 * step, capsys)
    assert [line.rpartition(", ")[2] for line in said] == ["about 0 s left", "about 112 s left", "about 0 s left"]
    assert shown(37, [3, 4], lambda step: 8.0 * step, capsys)[0].endswith("about 264 s left")


def test_before_the_first_loss_and_validation_there_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressDisplay().update(Status(17, 90, 1, 4, None, None))
    assert capsys.readouterr().err == "17 of 90 images, loss -, validation -, about 0 s left\n"


def test_what_is_said_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressDisplay().say("[bold]a message[/bold] " + 29 * "long " + "end")
    assert capsys.readouterr().err == "[bold]a message[/bold] " + 29 * "long " + "end\n"


def test_on_a_terminal_there_is_a_bar_in_place_of_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressDisplay() as show:
        show.update(Status(1_234, 5_678, 3, 4, 0.87654, 0.4567))
    told = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"1,234 of 5,678 images .* loss 0\.877 validation 45\.7 %", told)
    assert "s left" not in told
    assert "━" in told
