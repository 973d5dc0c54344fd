import pytest

pytest.register_assert_rewrite("tests.support")  # what a count finds is then told whole
