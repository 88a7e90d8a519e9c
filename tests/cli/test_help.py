import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import typer.main
from numpy.typing import NDArray
from rich.text import Text

from pconv_deploy import errors
from pconv_deploy.cli.main import app
from tests.cli.conftest import COMMANDS, Run

Photo = Callable[..., NDArray[np.uint8]]


def test_the_top_help_lists_commands_and_exit_codes(run: Run) -> None:
    text = run("--help").out
    for command in COMMANDS:
        assert command in text
    for code in ("0 done", "2 usage", "4 parity", "8 some files", "130 interrupted"):
        assert code in text


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("pconv-deploy 0.")


def test_exit_codes_are_all_different_and_documented() -> None:
    kinds = {
        kind.exit_code: kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.PConvError)
        and kind.__base__ is errors.PConvError
    }
    assert sorted(kinds) == [2, 3, 4, 5, 6, 7, 8, 9]
    for code, name in kinds.items():
        assert f"{name}" in (errors.__doc__ or "")
        assert str(code) in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fill",),
        ("export",),
        ("export", "x", "-o", "y", "--size", "big"),
        ("infer", "e", "i", "m", "-o", "o", "--mask-convention", "red"),
        ("infer", "e", "i", "m", "-o", "o", "--resume", "--overwrite"),
    ],
)
def test_wrong_usage_exits_2_with_a_hint(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err
    assert "Traceback" not in result.err


def test_the_beginning_of_a_command_is_answered_with_its_name(run: Run) -> None:
    result = run("t")
    assert (result.code, "Did you mean 'train' or 'triton-repo'?" in result.err) == (2, True)


def every_command() -> dict[str, Any]:
    """Each command by its words, groups and their commands among them."""
    found: dict[str, Any] = {"": typer.main.get_command(app)}
    for words, command in found.copy().items():
        found |= {f"{words} {name}".strip(): sub for name, sub in command.commands.items()}
    found |= {f"masks {name}": sub for name, sub in found["masks"].commands.items()}
    return found


@pytest.mark.parametrize("words", list(every_command()), ids=str)
def test_help(run: Run, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = run(*words.split(), "--help")
    assert (wide.code, wide.err) == (0, "")
    assert "Usage: pconv-deploy" in wide.out
    for parameter in every_command()[words].params:
        longest = max(parameter.opts, key=len)
        assert (longest if longest.startswith("-") else parameter.name) in wide.out
        text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(text).plain == text, parameter.name  # nothing lost in brackets
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, "80")
    shown = run(*words.split(), "--help").out
    assert "bool" not in shown
    assert "range>" not in shown
    assert "…" not in shown  # a word that was cut off
    assert not re.findall(r"<(?!=)[^<>]*│", shown)
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    usage = next(number for number, line in enumerate(lines) if line.startswith("Usage:"))
    for line, following in pairwise(lines[usage + 1 :]):
        if line and following:  # the next word had no room
            assert len(line) + 1 + len(following.split()[0]) > 78
