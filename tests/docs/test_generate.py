"""The reference pages say what the code says."""

from __future__ import annotations

import re

from docs.conditions import condition_files
from docs.generate import PAGE, settings_page


def test_the_settings_page_is_the_one_that_the_code_makes() -> None:
    assert PAGE.read_text() == settings_page(), "make it again: python -m docs.generate"


def test_rules_and_runbooks_are_those_that_the_table_of_conditions_makes() -> None:
    for path, text in condition_files().items():
        assert path.read_text() == text, f"{path}: make it again: python -m docs.generate"


def test_every_setting_has_a_description() -> None:
    unexplained = re.findall(r"^\| `(\w+)` \|.*\|\s*\|$", settings_page(), re.MULTILINE)
    assert unexplained == []
