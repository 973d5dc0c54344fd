"""How commands are found and called: by name, each module imported when its command is called, dataclasses as options.

Groups list their commands by name and summary, so that help and light commands load neither torch nor a client.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from importlib import import_module
from typing import Any, get_type_hints

import typer.main
from typer.core import TyperCommand, TyperGroup

from flowgauge.domain.errors import SettingsError, install


def lazy_group(
    package: str, summaries: Mapping[str, str], elsewhere: Mapping[str, str], epilog: str | None = None
) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=...)`: commands or groups, in the order of `summaries`, which are the first
    paragraphs of their help. Each stands in the module of `package` that has its name, or that `elsewhere` names.
    """

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = {name: TyperCommand(name, short_help=summary) for name, summary in summaries.items()}

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """The command itself in place of its summary. Raises `SettingsError` where a library of it is missing."""
            name, command, rest = super().resolve_command(ctx, args)
            if name is not None and name in summaries:
                function = name.replace("-", "_")
                try:
                    found = getattr(import_module(f"{package}.{elsewhere.get(name, function)}"), function)
                except ModuleNotFoundError as error:
                    library = str(error.name).partition(".")[0]
                    raise SettingsError(
                        f"`{ctx.command_path} {name}` needs {library}, which is not installed.",
                        install("stream", "console", "notify", "archive", "search"),
                    ) from error
                loaded = typer.Typer(rich_markup_mode="rich")
                if isinstance(found, typer.Typer):
                    own: dict[str, Any] = {} if found.registered_callback else {"help": summaries[name]}
                    loaded.add_typer(found, name=name, **own)
                else:
                    loaded.command(name, epilog=epilog)(unbundled(found))
                command = self.commands[name] = typer.main.get_group(loaded).commands[name]
            return name, command, rest

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
