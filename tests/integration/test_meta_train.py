"""`flowgauge meta-train`, as a person runs it, on one small line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgauge.cli.meta_train import Kept
from flowgauge.meta.initialization import read
from flowgauge.meta.outer_loop import MetaState, Turn
from tests.support.plants import tiny_dataset
from tests.support.shell import Shell

SIDE = 64
TURNS = 52  # one state is kept on the way


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_parameters_come_with_a_card_and_a_plot(flowgauge: Shell, tmp_path: Path) -> None:
    out, plot = tmp_path / "init.safetensors", tmp_path / "init.svg"
    command = ("meta-train", "procedural:leather", tiny_dataset(), "--lines", "1", "--turns", TURNS, "--size", SIDE)
    done = flowgauge(*command, "--detector", "headflow", "--device", "cpu", "--out", out, "--plot", plot)
    assert done.code == 0
    assert "2 lines" in done.out
    card = read(out).card
    assert card.lines == ("leather 0", tiny_dataset().name)
    assert card.training.turns == TURNS
    assert card.backbone.sha256
    assert out.stat().st_size < 10 * 2**20
    assert plot.read_text().count('class="curve"') == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, plot.name], "no state is left"
    assert set(load_file(out)) == set(read(out).parameters)

    fit = (
        "fit",
        tiny_dataset(),
        "--line",
        "press-3",
        "--store",
        tmp_path / "plant",
        "--size",
        SIDE,
        "--init",
        out,
        "--detector",
        "headflow",
    )
    assert flowgauge(*fit, "--device", "cpu").code == 0
    refused = flowgauge(*fit, "--device", "cpu", "--detector", "rad")
    assert refused.code == 2
    assert "for headflow, not for rad" in refused.err


@pytest.mark.slow
def test_the_default_detector_is_fitted_from_what_was_learned_for_it(flowgauge: Shell, tmp_path: Path) -> None:
    out, plot = tmp_path / "init.safetensors", tmp_path / "init.svg"
    learn = ("meta-train", tiny_dataset(), "--turns", 3, "--size", SIDE, "--device", "cpu", "--out", out)
    assert flowgauge(*learn, "--plot", plot).code == 0
    assert read(out).card.detector == "featureflow"
    assert read(out).card.head_loss is None
    assert plot.read_text().count('class="curve"') == 1
    assert out.stat().st_size < 2 * 2**20

    fit = ("fit", tiny_dataset(), "--line", "press-3", "--store", tmp_path / "plant", "--size", SIDE, "--init", out)
    started, other = (flowgauge(*fit, "--device", "cpu", *words) for words in ((), ("--set", "hidden=128")))
    assert started.code == 0
    assert other.code == 2
    assert "flows of another shape" in other.err


def test_what_is_kept_of_a_run_goes_on_and_another_runs_does_not(tmp_path: Path) -> None:
    init = {"head.a": torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last), "flow.b": torch.randn(3)}
    state = MetaState(init)
    gradient = {name: torch.ones_like(value) for name, value in init.items()}
    state.step(gradient, 0.1)
    state.turns.append(Turn(turn=0, line="leather 0", head_loss=0.5, flow_loss=1.5))
    kept = Kept(tmp_path / "state", "key")
    assert kept.state() is None
    kept.keep(state, 12.5)
    found = kept.state()
    assert found is not None
    resumed, seconds = found
    assert (resumed.turns, seconds) == (state.turns, 12.5)
    for each in (state, resumed):
        each.step(gradient, 0.1)
    assert all(torch.equal(resumed.init[name], value) for name, value in state.init.items())
    assert Kept(tmp_path / "state", "another").state() is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("procedural:cheese",), "no material 'cheese'"),
        (("/nowhere",), "no folder /nowhere"),
        (("procedural:leather", "--out", "/nowhere/init"), "no place"),
        (("procedural:leather", "--plot", "/nowhere/init.svg"), "no place"),
        (("procedural:leather", "--detector", "glass"), "Use one of: featureflow, headflow"),
        (("procedural:leather", "--head-only"), "featureflow has no head"),
    ],
)
def test_what_cannot_be_learned_from_is_said_before_the_work(
    flowgauge: Shell, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    out = () if "--out" in words else ("--out", tmp_path / "init")
    done = flowgauge("meta-train", *words, "--lines", "1", "--turns", "1", "--size", SIDE, *out)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
