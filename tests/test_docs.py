"""The documents name commands, options, files and codes that exist."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pconv_deploy import errors
from pconv_deploy.cli.main import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    inline = re.findall(r"`(pconv-deploy [^`]+)`", text)
    return [line.strip() for line in (*joined.splitlines(), *inline)]


def resolved(name: str, rest: str, line: str) -> tuple[Any, str]:
    """The command a line runs, that of a group as well, and what follows it."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands, line
    command: Any = commands[name]
    words = rest.split()
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, line
        command, rest = command.commands[words[0]], rest.replace(words[0], "", 1)
    return command, rest


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    for line in code_lines(document.read_text(encoding="utf-8")):
        match = re.match(r"(?:\$ )?pconv-deploy ([a-z-]+)(.*)", line)
        if not match or match[1].startswith("-"):
            continue
        command, rest = resolved(match[1], match[2], line)
        options = {o for p in command.params for o in p.opts} | {"--help", "-h"}
        for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", rest):
            assert option in options, line


def test_commands_of_groups_are_resolved() -> None:
    command, rest = resolved("masks", " make out --seed 1", "")
    assert (command.name, rest.strip()) == ("make", "out --seed 1")
    with pytest.raises(AssertionError, match="mask making"):
        resolved("masks", " making out", "mask making")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_the_readme_lists_every_exit_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.PConvError)
        and kind is not errors.PConvError
    }
    for code in (0, *codes, 130):
        assert re.search(rf"^\| {code} \|", text, flags=re.MULTILINE), code


def test_make_targets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", "\n".join(code_lines(text))):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_changelog_has_the_version_of_the_package() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", text, flags=re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert released[0] == package["project"]["version"]
    assert text.index("## Unreleased") < text.index(f"## {released[0]}")
