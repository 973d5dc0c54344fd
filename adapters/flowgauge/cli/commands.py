"""How commands are found and called: by name, each module imported when its command runs, dataclasses as options.

Groups list their commands by name and summary, so that help and light commands load neither torch nor a client.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple, get_type_hints

import typer.main
from typer.core import TyperCommand, TyperGroup


class Listed(NamedTuple):
    """A command of `flowgauge.cli`: `target` is "module:function", `summary` the first paragraph of its help."""

    target: str
    summary: str


class LazyCommand(TyperCommand):
    """Stands for a command until that is parsed, which imports its module."""

    def __init__(self, name: str, listed: Listed, epilog: str | None) -> None:
        super().__init__(name, help=listed.summary)
        self._target = listed.target
        self._epilog = epilog

    def load(self) -> Any:
        """The command itself, as Typer makes it."""
        module, function = self._target.split(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(self.name, epilog=self._epilog)(unbundled(getattr(import_module(module), function)))
        return typer.main.get_command(alone)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        # the context is that of the loaded command: what click invokes, completes and prints help of from here on
        return self.load().make_context(info_name, args, parent, **extra)


def lazy_group(commands: Mapping[str, Listed], epilog: str | None = None) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=...)`: these commands, in this order, and then those that are added to it."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            lazy: dict[str, Any] = {name: LazyCommand(name, listed, epilog) for name, listed in commands.items()}
            self.commands = {**lazy, **self.commands}

    return LazyGroup


def unbundled(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the fields of its dataclass parameters in their place, as Typer's options; calls fill them in.

    Fields have defaults and annotations as parameters do.
    """
    parameters = []
    bundles: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter)
            continue
        bundles[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        for field in fields(parameter.annotation):
            parameters.append(parameter.replace(name=field.name, default=field.default, annotation=hints[field.name]))
    if not bundles:
        return command

    @wraps(command)
    def called(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in fields(bundle)})
        command(**given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
