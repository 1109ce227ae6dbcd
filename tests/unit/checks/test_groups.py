"""Tests of one group share a server or a folder: they must run in one process."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("checked")
def test_a_group_of_tests_runs_in_one_process(request: pytest.FixtureRequest) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # pytest-xdist groups by this ending; it is lost with some versions of pytest
        assert request.node.nodeid.endswith("@checked")
