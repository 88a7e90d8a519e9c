"""Make a module from "package.module:factory"; importing it runs the user's own code."""

import copy
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pconv_deploy.checkpoints.foreign.weights import list_names
from pconv_deploy.errors import ModuleError
from pconv_deploy.export.modules.factory_name import parse_factory

_OURS = Path(__file__).parents[2]  # the package
# What user code may raise; a script without a main guard may exit.
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
    """Import and call `factory`; return a copy of its module in single precision.

    Args:
        factory: "package.module:name" of a callable without arguments that returns a
            torch.nn.Module, or of a module.

    Raises:
        UsageError: it is not written like that.
        ModuleError: there is no such module or name, it fails, or what it gives is no
            torch.nn.Module of ordinary parameters.
    """
    place, name = parse_factory(factory)
    made = _named(_imported(place), name)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModuleError(f"{factory} is {_kind(made)}; needed a callable, or a {_NEEDED}")
        _require_no_arguments(made, factory)
        try:
            made = made()
        except ANY_FAILURE as error:
            raise ModuleError(f"{factory}() raised {describe_error(error)}") from error
        if not isinstance(made, nn.Module):
            raise ModuleError(f"{factory}() returned {_kind(made)}; needed a {_NEEDED}")
    if any(is_lazy(p) or p.is_meta for p in made.parameters()):
        raise ModuleError(f"{factory} has parameters without values: lazy or on the meta device")
    try:
        copied = copied_module(made)
        # One by one: methods that a network overrides, such as train(), may return nothing.
        copied.cpu()
        copied.float()
        put_in_evaluation(copied)
        copied.requires_grad_(requires_grad=False)
    except ANY_FAILURE as error:
        raise ModuleError(f"{factory} cannot be copied: {describe_error(error)}") from error
    return copied


def copied_module(module: nn.Module) -> nn.Module:
    """Copy a module deeply, with the tensors that it computed from its parameters.

    Hooks such as `torch.nn.utils.weight_norm` keep those as attributes, and torch refuses to copy
    a tensor with a history.
    """
    computed = [
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def put_in_evaluation(module: nn.Module) -> None:
    """Put a module in evaluation mode, also where its train() or eval() takes other arguments.

    Such a method is not called: each part is put in evaluation by itself.
    """
    if all(_takes(part.train, False) and _takes(part.eval) for part in module.modules()):
        module.eval()
    else:
        for part in module.modules():
            part.training = False


def _takes(method: Callable[..., object], *given: object) -> bool:
    try:
        inspect.signature(method).bind(*given)
    except TypeError:
        return False
    return True


_NEEDED = "torch.nn.Module"


def _imported(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ModuleError(f"importing {place} raised {describe_error(error)}") from error
        raise ModuleError(
            f"there is no Python module {error.name}, neither in the current folder nor installed; "
            "run this in the folder that holds it, or set PYTHONPATH"
        ) from error
    except ANY_FAILURE as error:
        raise ModuleError(f"importing {place} raised {describe_error(error)}") from error


def _named(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            there = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
            raise ModuleError(
                f"{module.__name__} has no {name}; it has {list_names(there) or 'nothing to call'}"
            ) from error
    return found


def _require_no_arguments(made: Callable[..., object], factory: str) -> None:
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return  # some callables of C have none
    try:
        signature.bind()
    except TypeError as error:
        raise ModuleError(
            f"{factory} takes {signature}; needed a callable without arguments. Write one that "
            "calls it with yours"
        ) from error


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def describe_error(error: BaseException) -> str:
    """Describe an exception for a message: type, first line, location."""
    text = f"{type(error).__name__}: {first_line(error)}{location_of(error)}"
    return text if text.isprintable() else ascii(text)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 300 characters."""
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def location_of(error: BaseException) -> str:
    """Return the last line of the user's own code, " (nets.py, line 7)", or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_the_users(frame.filename)]
    return f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""


def _is_the_users(file: str) -> bool:
    if file.startswith((*torch.__path__, str(_OURS), "<")):
        return False
    installed = "site-packages" in file or "dist-packages" in file
    return installed or not file.startswith(sysconfig.get_path("stdlib"))
