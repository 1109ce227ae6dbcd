"""Every percentage, point and factor that the pages name in words follows from the committed results, or is a setting."""

from __future__ import annotations

import re

import pytest

from experiments import tables
from tests.helpers.documents import claims
from tests.helpers.documents.pages import PAGES, ROOT, prose

SETTINGS = {"README.md": ["on a chip with 5 % bit errors"], "experiments/README.md": []}
"""Rates of errors and the like, no results."""
NUMBER = re.compile(r"\d[\d,.]*(?: ± [\d.]+)? (?:%|points?\b|times\b|percent\b)")


def test_readme_says_what_was_measured() -> None:
    text = prose("README.md")
    for words in claims.main_page():
        assert words in text


def test_guides_say_what_was_measured() -> None:
    for page, said in claims.guides().items():
        assert all(words in (ROOT / "docs" / "pages" / page).read_text() for words in said)


@pytest.mark.parametrize("page", PAGES)
def test_no_other_number_of_a_result_is_named(page: str) -> None:
    text = prose(page)
    if page == "experiments/README.md":
        generated = " ".join(PAGES[page].read_text().split(tables.MARKS[0])[1].split(tables.MARKS[1])[0].split())
        assert len(NUMBER.findall(generated)) > 50
        text = text.replace(generated, " ... ")
    for words in [*SETTINGS[page], *(claims.main_page() if page == "README.md" else [])]:
        assert words in text
        text = text.replace(words, " ... ")
    assert NUMBER.findall(text) == []
