"""The search for alpha, beta and k: what a choice is worth, and how the next one is proposed."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgauge.adaptation.refine import Division
from flowgauge.cli import meta_search as search_module
from flowgauge.cli.meta_search import Evaluation, MetaSearch, best, markdown
from flowgauge.cli.model import Model
from flowgauge.cli.options import Device
from flowgauge.domain.errors import UserError
from flowgauge.meta.search import DEFAULTS, SUPPORT, Choice, SearchSettings, SearchSetup, ValidationLine, mixed
from flowgauge.meta.tasks import MetaLine
from flowgauge.models.detector import length
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.reports.plots import search_svg
from flowgauge.training.fit import embedder_for
from tests.support.detectors import features, mask, small, training_set
from tests.support.gauges import settings

QUICK = SearchSettings(turns=2, levels=(0.0, 0.4), seed=3)


def quiet(what: str, done: int, total: int) -> None:
    """No progress to look at."""


def search_setup() -> SearchSetup:
    detector = small("headflow")
    assert isinstance(detector, HeadFlow)
    trained = MetaLine(
        "trained", training_set(detector), detector.embed(features(8, seed=60, defect=True)), mask(8, detector)
    )
    good, plain, with_defect = (
        detector.embed(features(20, seed, defect)) for seed, defect in ((70, False), (71, False), (71, True))
    )
    faint = {name: plain[name] + 0.25 * (with_defect[name] - plain[name]) for name in plain}
    validation = ValidationLine("validation", training_set(detector, SUPPORT + SUPPORT // 2), good, faint)
    return SearchSetup(detector, [trained], [validation], QUICK)


def test_a_choice_is_worth_the_same_whenever_it_is_asked_for() -> None:
    setup = search_setup()
    before = {name: value.clone() for name, value in setup.detector.state_dict().items() if "standardise" not in name}
    found = setup.aurocs(DEFAULTS, quiet)
    assert len(found) == len(QUICK.levels)
    assert all(0 <= value <= 1 for value in found)
    worst = replace(setup, settings=QUICK.model_copy(update={"levels": QUICK.levels[1:]}))
    assert worst.aurocs(DEFAULTS, quiet) == found[1:], "whatever was asked for before"
    after = setup.detector.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "the detector is lent"
    assert worst.aurocs(Choice(alpha=0.5, beta=1e-2, k=2), quiet) != found[1:]


def test_a_support_holds_the_share_of_defects_that_it_is_asked_for() -> None:
    line = search_setup().validation[0]
    for share, wrong in ((0.0, 0), (0.25, 6), (0.5, 12)):
        support = line.support(share)
        assert length(support.good) == SUPPORT
        assert int((support.image >= SUPPORT).sum()) == wrong


def test_defects_lie_in_all_folds_and_some_of_them_may_watch() -> None:
    """A support's defects come last; folds in that order would be of one kind each."""
    division = mixed(Division.of([str(number) for number in range(SUPPORT)], 2), seed=0)
    defective = np.arange(SUPPORT) >= SUPPORT // 2
    assert sorted(np.bincount(division.folds)) == [SUPPORT // 2] * 2
    assert all(0 < defective[division.folds == fold].sum() < SUPPORT // 2 for fold in (0, 1))
    assert division.validation.sum() == SUPPORT // 8


@dataclass
class BenchmarkData:
    """In place of lines: what a choice is worth follows from its alpha."""

    asked: list[Choice] = field(default_factory=list)

    def aurocs(self, choice: Choice, progress: object) -> tuple[float, ...]:
        self.asked.append(choice)
        return 0.9 - abs(choice.alpha - 0.2), 0.95


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> BenchmarkData:
    made = BenchmarkData()
    monkeypatch.setattr(MetaSearch, "_search_setup", lambda self: made)
    return made


def search(seed: int = 0) -> MetaSearch:
    model = Model()
    return MetaSearch(model, QUICK.model_copy(update={"seed": seed}), Device.CPU, quiet)


def test_the_defaults_are_asked_first_and_then_what_promises_more(data: BenchmarkData, tmp_path: Path) -> None:
    found = search().run(13, tmp_path / "search.json")
    assert found[0].choice == DEFAULTS
    proposed = [abs(each.choice.alpha - 0.2) for each in found]
    assert min(proposed[8:]) < min(proposed[:8]), "the Gaussian process comes nearer than chance did"
    assert best(found).worst == max(min(each.image_aurocs) for each in found)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(data: BenchmarkData, tmp_path: Path) -> None:
    whole = search().run(10, tmp_path / "whole.json")
    search().run(9, tmp_path / "parts.json")
    asked = len(data.asked)
    parts = search().run(10, tmp_path / "parts.json")
    assert [each.choice for each in parts] == [each.choice for each in whole]
    assert len(data.asked) == asked + 1, "what was evaluated is not evaluated again"
    assert search(seed=1).run(3, tmp_path / "other.json")[1].choice != whole[1].choice


def test_a_file_of_another_search_stays_as_it_is(data: BenchmarkData, tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    search().run(1, path)
    before = path.read_text()
    with pytest.raises(UserError, match="other images or settings"):
        search(seed=1).run(2, path)
    assert path.read_text() == before
    path.write_text("{}")
    with pytest.raises(UserError, match="no result of this search"):
        search().run(2, path)


def test_without_optuna_the_extra_is_named(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="Optuna") as reported:
        search().run(1, tmp_path / "search.json")
    assert "pip install '.[search]'" in str(reported.value.remedy)
    assert not data.asked


def test_the_table_and_the_plot_tell_of_every_choice(data: BenchmarkData, tmp_path: Path) -> None:
    found = search().run(4, tmp_path / "search.json")
    rows = markdown(found, QUICK.levels).splitlines()
    assert len(rows) == 2 + len(found)
    assert [number for number, row in enumerate(rows[2:]) if "**" in row] == [found.index(best(found))]
    drawn = search_svg([each.choice for each in found], [each.worst for each in found])
    assert drawn.count("<use") == 4 * len(found)
    assert drawn.count('class="first"') == 4
    assert json.loads((tmp_path / "search.json").read_text())["best"] == best(found).choice.model_dump()


def test_lines_that_test_are_of_materials_that_trained_nobody() -> None:
    assert not set(search_module.TRAINED_ON) & set(search_module.VALIDATED_ON)


def test_one_evaluation_from_images_to_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real features and real procedural lines, small ones."""
    monkeypatch.setattr(search_module, "TRAINED_ON", ("brushed-metal",))
    monkeypatch.setattr(search_module, "VALIDATED_ON", ("leather",))
    monkeypatch.setattr(MetaSearch, "_fit_settings", settings("headflow"))
    (found,) = search().run(1, tmp_path / "search.json")
    assert isinstance(found, Evaluation)
    assert 0.5 < found.worst <= 1
    assert isinstance(embedder_for(settings("headflow"), "cpu").detector, HeadFlow)
