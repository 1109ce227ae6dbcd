"""Shares of a reference: statistics over runs, images needed, and runs whose reference is 0."""

from __future__ import annotations

import pytest

from bbfuse.compare.display import shares


def test_there_is_no_share_of_nothing() -> None:
    assert (shares.share(3.0, 4.0), shares.share(3.0, 0.0), shares.share(3.0, None)) == (0.75, None, None)
    assert (shares.mean_or_none([1.0, None, 2.0]), shares.mean_or_none([None])) == (1.5, None)


def test_recovery_has_mean_and_sd_over_the_runs_with_a_reference() -> None:
    found = shares.recovery([10.0, 30.0, 5.0], [20.0, 30.0, 0.0])
    assert found == pytest.approx(
        {"recovered_mean": 15.0, "recovered_sd": (350 / 3) ** 0.5, "share_mean": 0.75, "share_sd": 0.25}
    )
    assert shares.recovery([10.0], [None])["share_mean"] is shares.recovery([10.0], [0.0])["share_sd"] is None


def test_the_images_needed_are_the_fewest_that_reached_the_share_run_by_run() -> None:
    curves = [{100: 0.5, 200: 0.9, 400: 0.85}, {100: None, 200: 0.4, 400: 0.5}, {100: 0.2, 200: 0.8, 400: 0.95}]
    found = list(shares.images_needed(curves, (0.5, 0.8, 0.9, 1.0)))
    assert [row["share"] for row in found] == [0.5, 0.8, 0.9, 1.0]
    assert [(row["images_median"], row["images_max"]) for row in found] == [(200, 400), (200, None), (400, None), (None, None)]
    assert shares.mean_curve(curves) == pytest.approx({100: 0.35, 200: 0.7, 400: 2.3 / 3})
