"""Commands from plain functions: help from docstrings; `--overwrite` and `N`, not `<int range>`."""

import inspect
import re
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from functools import wraps
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from pconv_deploy.errors import UsageError

_OPTION_HELP = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def add_command(app: typer.Typer, function: Callable[..., None]) -> None:
    """Add a command that reads all its help from the function's docstring.

    Paragraphs become the command's help; `name: text` below `Options:` becomes the help of a
    parameter, unless its annotation has one. A parameter with a default is an option, a bool is a
    flag without `--no-`. A parameter that is a dataclass stands for the options that are its
    fields, with help in its own docstring.
    """
    text, helps = _help_of(function)
    signature = inspect.signature(function, eval_str=True)
    annotations = {name: p.annotation for name, p in signature.parameters.items()}
    groups: dict[str, Any] = {n: kind for n, kind in annotations.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            helps |= _help_of(groups[name])[1]
            parameters += inspect.signature(groups[name], eval_str=True).parameters.values()
        else:
            parameters.append(parameter)
    documented = [_documented(parameter, helps.pop(parameter.name, "")) for parameter in parameters]
    assert not helps, f"help of unknown options: {helps}"

    @wraps(function)
    def command(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        function(**values)

    command.__signature__ = signature.replace(parameters=documented)  # type: ignore[attr-defined]
    # rich keeps the line ends of docstrings: help wraps at the terminal's width instead.
    flowing = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    app.command(cls=PlainCommand, help=flowing)(command)


def _help_of(documented: Any) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and the help of each option."""
    text, _, listed = inspect.cleandoc(documented.__doc__ or "").partition("\nOptions:\n")
    return text, {name: " ".join(words.split()) for name, words in _OPTION_HELP.findall(listed)}


def _documented(parameter: inspect.Parameter, words: str) -> inspect.Parameter:
    kind, info = parameter.annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    is_option = parameter.default is not parameter.empty
    info = copy(info) if info else (typer.Option() if is_option else typer.Argument())
    info.help = words or info.help
    assert info.help, f"{parameter.name} has no help"
    if kind is bool and info.default is ...:  # typer keeps the first name there
        info.default = f"--{parameter.name.replace('_', '-')}"
    return parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])


class _PlainHelp:
    """For commands and groups of typer: what stands for the value of an option."""

    def get_params(self, ctx: Any) -> Any:
        parameters = super().get_params(ctx)  # type: ignore[misc]  # of the class beside it
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif _is_ranged_option(parameter) and parameter.metavar is None:
                parameter.metavar = "N"
        return parameters


class PlainCommand(_PlainHelp, TyperCommand):
    """A command with plain help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, but refuse empty words: as a path they would be the current folder."""
        for before, word in pairwise([f"{self.name}", *args]):
            if not word or re.fullmatch(r"--[\w-]+=", word):
                raise UsageError(
                    f"found nothing after {word or before!r}; is a variable of the shell not set?"
                )
        return super().parse_args(ctx, args)


class Commands(_PlainHelp, TyperGroup):
    """A group that suggests commands that begin with what was typed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        typed = args[0]
        meant = [name for name in self.commands if name.startswith(typed) and name != typed]
        if meant and typed not in self.commands:
            suggestions = " or ".join(repr(name) for name in meant)
            raise UsageError(f"no such command {typed!r}. Did you mean {suggestions}?")
        return super().resolve_command(ctx, args)


def _is_ranged_option(parameter: Any) -> bool:
    descriptor = getattr(parameter, "type_descriptor", None)  # older releases have none
    return parameter.param_type_name == "option" and getattr(descriptor, "is_ranged", False)


def kebab_case(word: str) -> str:
    """`--minShapes`, as trtexec spells it, is `--min-shapes`, and `--noTF32` is `--no-tf32`."""
    return re.sub(r"(?<=[a-z])[A-Z]+", lambda letters: f"-{letters[0].lower()}", word)
