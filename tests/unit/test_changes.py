"""Options of a detector's own on the command line: --set NAME=VALUE."""

import pytest

from flowgauge.cli.model import Model, changed
from flowgauge.domain.errors import SettingsError
from flowgauge.models.featureflow.detector import FeatureFlowConfig
from tests.support.shell import Shell


def model(detector: str, *changes: str) -> Model:
    return Model(detector=detector, changes=list(changes))


def test_values_are_json_or_words_and_dots_go_deeper() -> None:
    found = changed(["hidden=64", "synthesis.hypothesis=hypersphere", "synthesis.noise=0.5", "views=[{},{}]"])
    assert found == {"hidden": 64, "synthesis": {"hypothesis": "hypersphere", "noise": 0.5}, "views": [{}, {}]}


def test_what_is_set_reaches_the_detectors_configuration() -> None:
    settings = model("glass", "hidden=64", "synthesis.hypothesis=hypersphere").settings()
    assert settings.config == {"hidden": 64, "synthesis": {"hypothesis": "hypersphere"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("hidden", "no NAME=VALUE"),
        ("=3", "no NAME=VALUE"),
        ("hiden=3", "glass has no option 'hiden'"),
        ("synthesis.radios=1", "synthesis of glass has no option 'radios'"),
    ],
)
def test_a_misspelt_option_is_refused_with_those_that_there_are(change: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        model("glass", change).settings()


def test_help_lists_the_options_of_the_detector_as_its_class_describes_them(flowgauge: Shell) -> None:
    done = flowgauge("fit", "--set", "help")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    described = {name: field for name, field in FeatureFlowConfig.model_fields.items() if field.description}
    assert described
    assert all(str(field.description) in lines[name] for name, field in described.items())
    assert "1000" in lines["training.steps"]  # the detector's own, where the class says 600


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_help_of_options_needs_no_other_option_and_knows_the_detector_before_and_after_it(
    command: str, flowgauge: Shell
) -> None:
    for given in (("--detector", "glass", "--set", "help"), ("--set", "help", "--detector", "glass")):
        done = flowgauge(command, *given)
        assert done.code == 0, done.err
        assert "options of glass" in done.out
    refused = flowgauge(command, "--set", "help", "--detector", "glas")
    assert refused.code == 2
    assert "There is no detector 'glas'. Choose one of featureflow" in refused.err
