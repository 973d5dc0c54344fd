"""The pages of docs/reference are those that the code makes."""

import pytest

from tests.support.reference import FOLDER, pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], "write it anew: make reference"


@pytest.mark.parametrize("name", PAGES)
def test_everything_on_a_reference_page_is_explained(name: str) -> None:
    """Every row of a table with a column of words has words there."""
    explained, column = 0, 0
    for line in PAGES[name].splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        if "what" in (heads := [cell.strip("| ") for cell in cells]):
            column = heads.index("what")
        elif line.startswith("| `") and column:
            assert cells[column].strip("| "), line
            explained += 1
        elif not line.startswith("|"):
            column = 0
    assert explained > 5
