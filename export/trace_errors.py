"""Translate errors of torch.export and torch.onnx to errors that name the submodule."""

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr

import torch
from torch import nn
from torch.export import ExportedProgram

from pconv_deploy.errors import ModuleError
from pconv_deploy.export.modules.factory import ANY_FAILURE, first_line, location_of

# See `ends`; a user's network is wrapped once more.
_AROUND = re.compile(r"(?:inner\.)?network(?:\.network)?(?:\.|$)")
_SIZES = "\n  If not every size suits it, try a larger --size-multiple, or --size HxW --batch N"
_AXES = {"batch": "batch", "rows": "height", "columns": "width"}  # of a graph's inputs, in order
_DIMENSION = r"(?:\d+\*)?(batch|rows|columns)"


class UnfollowedSizesError(ModuleError):
    """torch.export can trace a module at only some of the free sizes.

    growth  factor by which a larger multiple of sides may work; None: no multiple works
    """

    def __init__(self, message: str, growth: int | None) -> None:
        super().__init__(message)
        self.growth = growth


@contextmanager
def following(module: nn.Module) -> Iterator[None]:
    """Turn errors of torch.export into a ModuleError that names the submodule.

    Its output on stderr, such as the graph traced so far, is dropped.
    """
    inside: list[str] = []
    with ExitStack() as hooks:
        for path, part in module.named_modules():
            entered = part.register_forward_pre_hook(lambda *_, path=path: inside.append(path))
            # A hook's result would replace the module's.
            left = part.register_forward_hook(lambda *_: inside.__delitem__(-1))
            hooks.callback(entered.remove)
            hooks.callback(left.remove)
        try:
            with redirect_stderr(io.StringIO()):
                yield
        except ANY_FAILURE as error:  # torch.export runs the module
            raise _not_followed(error, _named(inside[-1] if inside else "")) from error


@contextmanager
def translating(exported: ExportedProgram) -> Iterator[None]:
    """Turn errors of torch.onnx into a ModuleError that names operator and submodule."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        found = re.search(r"target=torch\.ops\.([\w.]+)\]", str(error))
        if not found:
            cause = re.search(r"<class '[\w.]*?(\w+)'>: (.*)", str(error))
            message = f"{cause[1]}: {cause[2]}" if cause else first_line(error)
            raise ModuleError(f"torch.onnx cannot translate the module: {message}") from error
        place = _named(_path_of(exported, found[1]))
        raise ModuleError(
            f"{place} uses {found[1].removesuffix('.default')}, for which torch.onnx has no "
            f"translation to ONNX"
        ) from error


def path_in_network(path: str) -> str:
    """Return a submodule's path inside the network, without our wrappers."""
    around = _AROUND.match(path)
    return path[around.end() :] if around else ""


def _not_followed(error: BaseException, place: str) -> ModuleError:
    message, where = str(error), location_of(error)
    if "Constraints violated" in message:
        return _sizes(message)
    if "data-dependent" in message.lower():
        return ModuleError(
            f"{place} branches on the values of a tensor{where}; a graph computes the same for all "
            "images. Compute both and choose with torch.where, or branch on shapes only"
        )
    hint = _SIZES if "size" in first_line(error) else ""
    name = type(error).__name__
    return ModuleError(
        f"torch.export cannot follow {place}{where}: {name}: {first_line(error)}{hint}"
    )


def _sizes(message: str) -> UnfollowedSizesError:
    fixed = re.findall(rf"marked {_DIMENSION} as dynamic .*? constant \((\d+)\)", message)
    least = re.findall(r"^\s+(rows|columns) = Dim\('\w+', min=(\d+)", message, re.MULTILINE)
    times = re.findall(r"^\s+(rows|columns) = (\d+)\*_\w+$", message, re.MULTILINE)
    needs = [
        *(f"{_AXES[axis]} {size}" for axis, size in fixed),
        *(f"{_AXES[axis]} of at least {count} multiples" for axis, count in least),
        *(f"{_AXES[axis]} of {count} multiples" for axis, count in times),
    ]
    growth = None if fixed else max((int(count) for _, count in times), default=2)
    return UnfollowedSizesError(
        "torch.export cannot follow the module at every size; "
        f"needed {', '.join(dict.fromkeys(needs) or _guards(message))}",
        growth,
    )


def _guards(message: str) -> list[str]:
    """Return the conditions, in terms of the graph's inputs."""
    found = re.findall(r"satisfy the generated guard (.+?)\.?$", message, re.MULTILINE)
    axes = tuple(_AXES.values())
    side = re.compile(r"L\['\w+'\]\.size\(\)\[([012])\]")
    return [side.sub(lambda at: axes[int(at[1])], guard) for guard in found[:2]] or ["other sizes"]


def _path_of(exported: ExportedProgram, operator: str) -> str:
    """Return the path of the innermost submodule that calls an operator."""
    stem = operator.split(".")[1].strip("_")
    for node in exported.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if stem in str(node.target) and stack:
            return str(stack[-1][0])
    return ""


def _named(path: str) -> str:
    inner = path_in_network(path)
    return f"the submodule {inner}" if inner else "the module"
