import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmarks", action="store_true", help="run what measures speed; needs a quiet machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--benchmarks"):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="measures speed: run with --benchmarks on a quiet machine"))
