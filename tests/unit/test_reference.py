"""The pages of docs/reference are those that the code makes."""

import pytest

from tests.support.reference import FOLDER, pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], "write it anew: make reference"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_on_a_reference_page_is_without_words(name: str) -> None:
    rows = [line for line in PAGES[name].splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if "|  |" in row.rsplit("|", 2)[0] + "|" and name not in ("commands.md", "settings.md")] == []
