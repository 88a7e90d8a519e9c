"""Where in a module torch.export, or the translation to ONNX, could not go on: one error each."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.export import ExportedProgram

from pconv_deploy.errors import ModuleError

# See `graphs`; a user's network is wrapped once more.
_AROUND = re.compile(r"(?:inner\.)?network(?:\.network)?(?:\.|$)")
_LONGEST = 300
_SIZES = "\n  If not every size suits it, try a larger --size-multiple, or --size HxW --batch N"


@contextmanager
def following(module: nn.Module) -> Iterator[None]:
    """Turn what torch.export raises into a ModuleError that names the submodule it was in."""
    inside: list[str] = []
    with ExitStack() as hooks:
        for path, part in module.named_modules():
            entered = part.register_forward_pre_hook(lambda *_, path=path: inside.append(path))
            # A hook's result would replace the module's.
            left = part.register_forward_hook(lambda *_: inside.__delitem__(-1))
            hooks.callback(entered.remove)
            hooks.callback(left.remove)
        try:
            yield
        except Exception as error:  # of any kind: torch.export runs the module
            said = _first_line(error)
            place = _named(inside[-1] if inside else "")
            hint = _SIZES if "onstraint" in said or "size" in said else ""
            raise ModuleError(
                f"torch.export cannot follow {place}: {type(error).__name__}: {said}{hint}"
            ) from error


@contextmanager
def translating(exported: ExportedProgram) -> Iterator[None]:
    """Turn what torch.onnx raises into a ModuleError naming operator and submodule."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        found = re.search(r"target=torch\.ops\.([\w.]+)\]", str(error))
        if not found:
            cause = re.search(r"<class '[\w.]*?(\w+)'>: (.*)", str(error))
            said = f"{cause[1]}: {cause[2]}" if cause else _first_line(error)
            raise ModuleError(f"torch.onnx cannot translate the module: {said}") from error
        place = _named(_path_of(exported, found[1]))
        raise ModuleError(
            f"{place} uses {found[1].removesuffix('.default')}, for which torch.onnx has no "
            f"translation to ONNX"
        ) from error


def path_in_network(path: str) -> str:
    """The path of a submodule without what is wrapped around the network."""
    around = _AROUND.match(path)
    return path[around.end() :] if around else ""


def _path_of(exported: ExportedProgram, operator: str) -> str:
    """The innermost submodule that calls an operator, which may be a part of the one it calls."""
    stem = operator.split(".")[1].strip("_")
    for node in exported.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if stem in str(node.target) and stack:
            return str(stack[-1][0])
    return ""


def _named(path: str) -> str:
    inner = path_in_network(path)
    return f"the submodule {inner}" if inner else "the module"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:_LONGEST]
