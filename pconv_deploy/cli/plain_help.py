"""Plain help: `--overwrite` and `N`, not `--overwrite <bool>` and `<int range>`."""

import re
from itertools import pairwise
from typing import Any

from typer.core import TyperCommand

from pconv_deploy.errors import UsageError


class PlainHelp:
    """For commands and groups of typer: what stands for the value of an option."""

    def get_params(self, ctx: Any) -> Any:
        parameters = super().get_params(ctx)  # type: ignore[misc]  # of the class beside it
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif _is_ranged_option(parameter) and parameter.metavar is None:
                parameter.metavar = "N"
        return parameters


class PlainCommand(PlainHelp, TyperCommand):
    """A command with plain help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, but refuse empty words: as a path they would be the current folder."""
        for before, word in pairwise([f"{self.name}", *args]):
            if not word or re.fullmatch(r"--[\w-]+=", word):
                raise UsageError(
                    f"found nothing after {word or before!r}; is a variable of the shell not set?"
                )
        return super().parse_args(ctx, args)


def _is_ranged_option(parameter: Any) -> bool:
    descriptor = getattr(parameter, "type_descriptor", None)  # older releases have none
    return parameter.param_type_name == "option" and getattr(descriptor, "is_ranged", False)


def kebab_case(word: str) -> str:
    """`--minShapes`, as trtexec spells it, is `--min-shapes`, and `--noTF32` is `--no-tf32`."""
    return re.sub(r"(?<=[a-z])[A-Z]+", lambda letters: f"-{letters[0].lower()}", word)
