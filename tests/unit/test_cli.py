import io
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main

from flowgauge.cli.app import COMMANDS, app
from flowgauge.cli.benchmark import COMMANDS as BENCHMARKS
from flowgauge.cli.commands import unbundled
from flowgauge.cli.exits import Exit, exit_code
from flowgauge.cli.output import cell, drawn
from flowgauge.domain import errors
from flowgauge.domain.lines import LineSettings
from tests.support.folders import write_image, write_mvtec, write_plain
from tests.support.shell import Shell


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(app)
    for name in list(getattr(command, "commands", ())):
        _, each, _ = command.resolve_command(typer.Context(command), [name])
        yield from commands(each, (*path, name))
    if not hasattr(command, "commands"):
        yield path


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_trains_by_example(path: tuple[str, ...], flowgauge: Shell) -> None:
    shown = flowgauge(*path, "--help")
    assert shown.code == 0
    assert f"flowgauge {' '.join(path)}" in shown.out.split("Usage", 1)[1].split("\n", 1)[1]


def test_the_help_names_the_exit_codes_and_all_commands(flowgauge: Shell) -> None:
    shown = flowgauge("--help").out
    assert "Exit codes: 0 fine" in shown
    assert all(path[0] in shown for path in commands())


@dataclass(frozen=True)
class Where:
    shelf: Annotated[int, typer.Option(min=1)] = 1
    box: str = "red"


def test_the_fields_of_a_dataclass_are_options_of_the_command_that_takes_it() -> None:
    given: list[object] = []

    def find(name: str, where: Where = Where(), loud: bool = False) -> None:
        given.extend((name, where, loud))

    single = typer.Typer(add_completion=False)
    single.command()(unbundled(find))
    command: Any = typer.main.get_command(single)
    assert [param.name for param in command.params] == ["name", "shelf", "box", "loud"]
    command.main(["screw", "--box", "blue"], standalone_mode=False)
    assert given == ["screw", Where(box="blue"), False]
    with pytest.raises(Exception, match="greater than or equal to 1"):
        command.main(["screw", "--shelf", "0"], standalone_mode=False)


def test_help_for_a_line_describes_every_setting(flowgauge: Shell) -> None:
    shown = " ".join(flowgauge("lines", "set", "--help").out.split())
    described = {name: field.description for name, field in LineSettings.model_fields.items()}
    del described["schema_version"]
    assert all(f"{name} {description}" in shown for name, description in described.items())


def test_the_command_line_starts_without_loading_a_model() -> None:
    heavy = {"torch", "timm", "pydantic", "numpy", "scipy", "matplotlib", "jinja2"}
    script = f"import sys, flowgauge.cli; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_lines_are_listed_without_the_libraries_of_models_and_archives(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from flowgauge.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'torch', 'pyarrow', 'scipy'} & sys.modules.keys())\n"
    )
    command = [sys.executable, "-c", script, "lines", "list", "--store", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "set()"]


def test_commands_that_run_no_model_load_no_torch() -> None:
    """`worker` neither, before it knows that its role scores or adapts: one that does not is spared 800 MiB."""
    light = [
        "label",
        "worker",
        "publish",
        "status",
        "alerts",
        "changes",
        "snapshots",
        "lines",
        "parts",
        "golden",
        "dead-letters",
        "topics",
        "store",
        "console",
        "benchmark",
    ]
    script = (
        "import sys\n"
        "from flowgauge.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0, command\n"
        "    assert not {'torch', 'timm', 'sklearn'} & sys.modules.keys(), command\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *light, "store"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_scoring_loads_no_library_of_evaluation() -> None:
    script = "import sys, flowgauge.cli.run; print({'sklearn', 'pandas', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_help_of_all_commands_says_of_each_what_its_own_help_says_first() -> None:
    group: Any = typer.main.get_command(app)
    _, below, _ = group.resolve_command(typer.Context(group), ["benchmark"])
    for where, listed in ((group, COMMANDS), (below, BENCHMARKS)):
        for name, summary in listed.items():
            _, command, _ = where.resolve_command(typer.Context(where), [name])
            assert " ".join(command.help.split("\n\n")[0].split()) == summary


def test_a_command_whose_library_is_not_installed_says_what_to_install() -> None:
    script = "import sys; sys.modules['kafka'] = None; from flowgauge.cli import main; main(['publish', '--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: `flowgauge publish` needs kafka, which is not installed."
        " Install the extras, in the folder of Flowgauge's sources:"
        " pip install '.[stream,console,notify,archive,search]'."
    ]


def test_every_command_that_installs_an_extra_is_of_the_sources_and_names_one_of_theirs() -> None:
    root = Path(__file__).parents[2]
    offered = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named: set[str] = set()
    for where, suffix in (("core", "py"), ("streams", "py"), ("adapters", "py"), ("docs", "md"), (".", "md")):
        for path in (root / where).glob(f"**/*.{suffix}" if where != "." else "*.md"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install \S*flowgauge", text), path
            named |= {extra for found in re.findall(r"'\.\[([a-z,]+)\]'", text) for extra in found.split(",")}
            named |= {
                extra for found in re.findall(r"\binstall\((\"[^)]*)\)", text) for extra in re.findall(r"\w+", found)
            }
    assert {"stream", "notify", "openvino", "backbones"} <= named <= offered.keys()


def test_the_version_is_printed(flowgauge: Shell) -> None:
    assert flowgauge("--version").out.startswith("flowgauge 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DatasetError("c"), Exit.MISTAKE),
        (errors.GaugeMissing("c"), Exit.MISTAKE),
        (errors.UnreadableImage("c"), Exit.MISTAKE),
        (errors.SnapshotCorrupt("c"), Exit.INVALID_SNAPSHOT),
        (errors.BackboneMismatch("c"), Exit.INVALID_SNAPSHOT),
        (errors.StoreFull("c"), Exit.FAILED),
        (errors.FlowgaugeError("c"), Exit.FAILED),
    ],
)
def test_an_error_has_an_exit_code_by_its_kind(error: errors.FlowgaugeError, code: Exit) -> None:
    assert exit_code(error) is code


def test_a_mistake_is_one_line_with_cause_and_remedy(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("fit", tmp_path / "nowhere", "--line", "a", "--store", tmp_path / "store")
    assert done.code == 2
    assert done.err.splitlines() == [
        f"Error: There is no folder {tmp_path}/nowhere. Give the folder that holds the data set."
    ]


def test_brackets_in_a_message_are_no_markup(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("fit", tmp_path / "[red]x", "--line", "a", "--store", tmp_path / "store")
    assert "/[red]x." in done.err


@pytest.mark.parametrize("line", ["", "..", "a/b", "x" * 65, "line 1"])
def test_a_name_that_cannot_name_a_line_is_refused(line: str, flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("fit", write_plain(tmp_path / "good", 1), "--line", line, "--store", tmp_path / "store")
    assert done.code == 2
    assert "cannot name a line" in done.err


@pytest.mark.parametrize(
    "arguments",
    [("lines", "list"), ("alerts",), ("status",), ("golden", "list", "a"), ("verdicts", "query", "SELECT 1")],
)
def test_a_mistyped_store_is_named_and_not_made(arguments: tuple[str, ...], flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge(*arguments, "--store", tmp_path / "plnat")
    assert done.code == 2
    assert f"There is no store at {tmp_path / 'plnat'}" in done.err
    assert not (tmp_path / "plnat").exists()


def test_a_missing_store_is_a_mistake(flowgauge: Shell) -> None:
    done = flowgauge("lines", "list")
    assert done.code == 2
    assert "--store" in done.err


@pytest.mark.parametrize("address", ["a-file", "a-file/plant", "/proc/plant"])
def test_a_store_that_can_be_no_folder_is_a_mistake(
    address: str, flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    done = flowgauge("lines", "set", "a", "policy=off", "--store", address)
    assert done.code == 2
    assert f"{address}/objects cannot be used" in done.err


def test_the_store_may_come_from_environment_or_file(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "plant.toml"
    config.write_text(f'store = "{tmp_path}/from-file"\n')
    assert flowgauge("--config", config, "lines", "set", "a", "policy=off").code == 0
    monkeypatch.setenv("FLOWGAUGE_STORE", f"{tmp_path}/from-environment")
    assert flowgauge("--config", config, "lines", "set", "b", "policy=off").code == 0
    assert flowgauge("lines", "set", "c", "policy=off", "--store", tmp_path / "from-option").code == 0
    found = {
        source: [each["line"] for each in flowgauge("lines", "list", "--store", tmp_path / source, "--json").json]
        for source in ("from-file", "from-environment", "from-option")
    }
    assert found == {"from-file": ["a"], "from-environment": ["b"], "from-option": ["c"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [("stoer = 'x'", "stoer, which is no setting"), ("store =", "is no TOML"), (None, "cannot be read")],
)
def test_a_wrong_settings_file_is_refused(content: str | None, message: str, flowgauge: Shell, tmp_path: Path) -> None:
    config = tmp_path / "plant.toml"
    if content is not None:
        config.write_text(content)
    done = flowgauge("--config", config, "lines", "list")
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("change", ["policy", "policy=never", "polic=auto", "buffer_size=0", "buffer_minimum=9999"])
def test_a_setting_that_does_not_hold_is_refused(change: str, flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("lines", "set", "a", change, "--store", tmp_path)
    assert done.code == 2
    assert flowgauge("lines", "list", "--store", tmp_path, "--json").json == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("buffer_size=10", "Error: buffer_minimum (48) exceeds buffer_size (10). See"),
        ("buffer_size=0", "Error: buffer_size should be greater than or equal to 1. See"),
    ],
)
def test_a_setting_that_does_not_hold_is_refused_in_words(
    change: str, words: str, flowgauge: Shell, tmp_path: Path
) -> None:
    assert words in flowgauge("lines", "set", "a", change, "--store", tmp_path).err


def test_settings_are_changed_and_unset(flowgauge: Shell, tmp_path: Path) -> None:
    changed = flowgauge("lines", "set", "a", "policy=propose", "deadline_seconds=1.5", "--store", tmp_path, "--json")
    assert (changed.json["policy"], changed.json["deadline_seconds"]) == ("propose", 1.5)
    scheduled = flowgauge("lines", "set", "a", "adapt_schedule=0 2 * * *", "--store", tmp_path, "--json")
    assert scheduled.json["adapt_schedule"] == "0 2 * * *"
    assert (
        flowgauge("lines", "set", "a", "adapt_schedule=", "--store", tmp_path, "--json").json["adapt_schedule"] is None
    )
    unset = flowgauge("lines", "set", "a", "deadline_seconds=", "--store", tmp_path, "--json")
    assert (unset.json["policy"], unset.json["deadline_seconds"]) == ("propose", None)
    assert flowgauge("lines", "set", "a", "buffer_size=100", "--store", tmp_path, "--json").json["buffer_size"] == 100
    assert flowgauge("lines", "set", "a", "buffer_size=", "--store", tmp_path, "--json").json["buffer_size"] == 400


def test_golden_images_are_added_listed_and_moved(flowgauge: Shell, tmp_path: Path) -> None:
    folder, store = write_plain(tmp_path / "labelled", 3), tmp_path / "store"
    assert flowgauge("golden", "add", "a", folder, "--label", "good", "--store", store).code == 0
    assert flowgauge("golden", "add", "a", folder, "--label", "defect", "--store", store).code == 0
    listed = flowgauge("golden", "list", "a", "--store", store, "--json").json
    assert [(each["image_id"], each["label"]) for each in listed] == [(f"{i:03}.png", "defect") for i in range(3)]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_the_encoding_of_stdout_lacks_is_spelled(
    form: tuple[str, ...], flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    write_image(tmp_path / "labelled" / "\u5de6.png", 0)
    assert flowgauge("golden", "add", "a", tmp_path / "labelled", "--label", "good", "--store", store).code == 0
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "latin-1", write_through=True))
    assert flowgauge("golden", "list", "a", "--store", store, *form).code == 0
    assert rb"\u5de6.png" in written.getvalue()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_control_characters_in_a_file_s_name_reach_no_terminal(
    form: tuple[str, ...], flowgauge: Shell, tmp_path: Path
) -> None:
    folder, store = tmp_path / "labelled", tmp_path / "store"
    write_image(folder / "a\x1b[2J\n\x9b1m.png", 0)
    (folder / "b\x1b\n.png").write_bytes(b"")
    added = flowgauge("golden", "add", "a", folder, "--label", "good", "--store", store)
    listed = flowgauge("golden", "list", "a", "--store", store, *form)
    assert not set("\x1b\x9b") & set(added.out + added.err + listed.out + listed.err)
    assert r"b\x1b\x0a.png" in added.err
    if form:
        assert listed.json[0]["image_id"] == "a\x1b[2J\n\x9b1m.png"
    else:
        assert r"a\x1b[2J\x0a\x9b1m.png" in listed.out


def test_a_bar_is_drawn_in_characters_that_stdout_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, character in (("utf-8", "█"), ("latin-1", "#")):
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert drawn("█", "#") == character


def test_a_class_of_defects_is_kept_and_moves_with_the_label(flowgauge: Shell, tmp_path: Path) -> None:
    folder, store = write_plain(tmp_path / "labelled", 2), tmp_path / "store"
    for said in (("--label", "defect"), ("--label", "defect", "--class", "deep/cut")):
        assert flowgauge("golden", "add", "a", folder, *said, "--store", store).code == 0
    listed = flowgauge("golden", "list", "a", "--store", store, "--json").json
    assert [(each["image_id"], each["class"]) for each in listed] == [(f"{i:03}.png", "deep/cut") for i in range(2)]
    assert flowgauge("golden", "add", "a", folder, "--label", "good", "--store", store).code == 0
    listed = flowgauge("golden", "list", "a", "--store", store, "--json").json
    assert [(each["label"], each["class"]) for each in listed] == [("good", "")] * 2


def test_a_good_image_has_no_class_of_defect(flowgauge: Shell, tmp_path: Path) -> None:
    folder, store = write_plain(tmp_path / "labelled", 1), tmp_path / "store"
    done = flowgauge("golden", "add", "a", folder, "--label", "good", "--class", "cut", "--store", store)
    assert done.code == 2
    assert "no class of defect" in done.err


def test_an_unreadable_golden_image_is_named_and_the_others_are_added(flowgauge: Shell, tmp_path: Path) -> None:
    folder, store = write_plain(tmp_path / "labelled", 2), tmp_path / "store"
    (folder / "broken.png").write_bytes(b"")
    done = flowgauge("golden", "add", "a", folder, "--label", "good", "--store", store)
    assert done.code == 2
    assert "broken.png is left out. The image is empty" in done.err
    assert len(flowgauge("golden", "list", "a", "--store", store, "--json").json) == 2


def test_a_golden_folder_without_images_is_refused(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("golden", "add", "a", tmp_path, "--label", "good", "--store", tmp_path / "store")
    assert done.code == 2
    assert "no images" in done.err


def test_a_gauge_learns_from_one_source(flowgauge: Shell, tmp_path: Path) -> None:
    for arguments in ([tmp_path, "--from-buffer"], []):
        done = flowgauge("fit", *arguments, "--line", "a", "--store", tmp_path / "store")
        assert done.code == 2
        assert "either from a data set or from the buffer" in done.err


def test_an_empty_buffer_trains_nothing(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("fit", "--from-buffer", "--line", "a", "--store", tmp_path)
    assert done.code == 2
    assert "buffer of line a holds no images" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "size 100"),
        (["--detector", "oracle"], "no detector 'oracle'"),
        (["--weights", "/nowhere.safetensors"], "weights file /nowhere.safetensors is not there"),
        (["--backbone", "nonsense"], "no model named 'nonsense'"),
    ],
)
def test_a_model_that_cannot_be_had_is_a_mistake(
    arguments: list[str], message: str, flowgauge: Shell, tmp_path: Path
) -> None:
    folder = write_plain(tmp_path / "good", 8)
    done = flowgauge("fit", folder, "--line", "a", "--store", tmp_path / "store", "--device", "cpu", *arguments)
    assert done.code == 2
    assert message in done.err


def test_another_promise_cannot_be_the_one_that_is_kept(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("threshold", "set", "a", "--false-alarms", "0.3", "--keep-promise", "--store", tmp_path)
    assert done.code == 2
    assert "or a value with --keep-promise" in done.err


def test_a_line_without_a_gauge_cannot_score(flowgauge: Shell, tmp_path: Path) -> None:
    done = flowgauge("score", "a", tmp_path / "x.png", "--store", tmp_path)
    assert done.code == 2
    assert "has no gauge yet" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "0,x"], "no list of seeds"),
        (["--json", "/nowhere/figures.json"], "/nowhere/figures.json is no place for a file"),
        (["--noise", "0.1"], "--noise needs --splits"),
        (["--splits", "/nowhere.json"], "/nowhere.json cannot be read"),
        (["--groups", "/nowhere.json"], "/nowhere.json cannot be read"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, flowgauge: Shell, tmp_path: Path
) -> None:
    done = flowgauge("evaluate", write_mvtec(tmp_path, train=9, test_good=1, defects={"crack": 1}), *arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.123456, "0.1235"), (604800.0, "604800"), (7, "7"), ("a", "a")]
)
def test_cells_are_short(value: object, shown: str) -> None:
    assert cell(value) == shown
