"""Plain help: `--overwrite` and `N`, not `--overwrite <bool>` and `<int range>`."""

from typing import Any

from typer.core import TyperCommand


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


def _is_ranged_option(parameter: Any) -> bool:
    descriptor = getattr(parameter, "type_descriptor", None)  # older releases have none
    return parameter.param_type_name == "option" and getattr(descriptor, "is_ranged", False)
