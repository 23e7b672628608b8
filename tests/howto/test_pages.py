"""The pages of docs/howto are short, and each is followed by a test."""

from pathlib import Path

import pytest

from tests.howto.pages import PAGES, edits

LONGEST = 110  # lines: a page, most of it to copy


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_a_page_is_a_page(page):
    text = (PAGES / f"{page}.md").read_text()
    assert len(text.splitlines()) <= LONGEST
    assert list(edits(text))
    assert f'follow("{page}")' in Path(__file__).with_name(f"test_{page}.py").read_text()
