"""From "package.module:factory" to a module; importing it runs the user's own code."""

import copy
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pconv_deploy.errors import ModuleError, UsageError
from pconv_deploy.foreign.weights import shown

# What code of others may raise; a script without a guard around its main part exits.
ANY_FAILURE = (Exception, SystemExit)


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let code in the current folder be imported, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def make_module(factory: str) -> nn.Module:
    """Import what `factory` names, call it, and give its module: a copy, in single precision.

    Args:
        factory: "package.module:name" of a callable without arguments that returns a
            torch.nn.Module, or of a module.

    Raises:
        UsageError: it is not written like that.
        ModuleError: there is no such module or name, it fails, or what it gives is no
            torch.nn.Module of ordinary parameters.
    """
    place, _, name = factory.partition(":")
    if not all(part.isidentifier() for part in (*place.split("."), *name.split("."))):
        raise UsageError(f"found --module {factory!r}; needed package.module:factory")
    made = _named(_imported(place), name)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModuleError(f"{factory} is {_kind(made)}; needed a callable, or a {_NEEDED}")
        try:
            made = made()
        except ANY_FAILURE as error:
            raise ModuleError(f"{factory}() raised {reason(error)}") from error
        if not isinstance(made, nn.Module):
            raise ModuleError(f"{factory}() returned {_kind(made)}; needed a {_NEEDED}")
    if any(is_lazy(p) or p.is_meta for p in made.parameters()):
        raise ModuleError(f"{factory} has parameters without values: lazy or on the meta device")
    try:
        return copy.deepcopy(made).cpu().float().eval().requires_grad_(requires_grad=False)
    except ANY_FAILURE as error:
        raise ModuleError(f"{factory} cannot be copied: {reason(error)}") from error


_NEEDED = "torch.nn.Module"


def _imported(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ModuleError(f"importing {place} raised {reason(error)}") from error
        raise ModuleError(
            f"there is no Python module {error.name}, neither in the current folder nor installed; "
            "run this in the folder that holds it, or set PYTHONPATH"
        ) from error
    except ANY_FAILURE as error:
        raise ModuleError(f"importing {place} raised {reason(error)}") from error


def _named(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            there = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
            raise ModuleError(
                f"{module.__name__} has no {name}; it has {shown(there) or 'nothing to call'}"
            ) from error
    return found


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def reason(error: BaseException) -> str:
    """What was raised, its first line, and where: for messages."""
    said = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    frames = traceback.extract_tb(error.__traceback__)
    # The last frame outside of PyTorch is the user's, or ours that called.
    own = [f for f in frames if not f.filename.startswith((*torch.__path__, "<"))]
    where = f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""
    text = f"{type(error).__name__}: {said}{where}"
    return text if text.isprintable() else ascii(text)
