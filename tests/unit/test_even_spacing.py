"""A sample at regular steps."""

import numpy as np
import pytest

from flowgauge.domain.even_spacing import evenly_spaced


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 3), (3, 3), (4, 3), (400, 128), (7, 1)])
def test_a_sample_has_ends_no_number_twice_and_steps_that_differ_by_one(count: int, most: int) -> None:
    sample = evenly_spaced(count, most)
    assert len(sample) == min(count, most)
    assert (np.diff(sample) > 0).all()
    if len(sample) > 1:
        assert (sample[0], sample[-1]) == (0, count - 1)
        assert np.ptp(np.diff(sample)) <= 1
