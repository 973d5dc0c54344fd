from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.servers import S3Address, plant_variables
from tests.support.speedplant import SpeedPlant, speed_plant


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmarks", action="store_true", help="run what measures speed; needs a quiet machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The hook is given all items of the run, those of other folders too."""
    if not config.getoption("--benchmarks"):
        for item in (item for item in items if item.path.is_relative_to(Path(__file__).parent)):
            item.add_marker(pytest.mark.skip(reason="measures speed: run with --benchmarks on a quiet machine"))


@pytest.fixture
def plant(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SpeedPlant]:
    for variable, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(variable, value)
    torch.set_num_threads(1)
    with speed_plant(tmp_path) as plant:
        yield plant
