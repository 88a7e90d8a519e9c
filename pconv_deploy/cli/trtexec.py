"""Words of NVIDIA's trtexec and of our other commands, said as `build-engine` says them."""

import re
from collections.abc import Mapping, Sequence

import typer

from pconv_deploy.cli.plain_help import PlainCommand
from pconv_deploy.errors import UsageError

# What means the same; None: it is always so.
_SAME: Mapping[str, str | None] = {
    "--bf16": "--precision=bf16",
    "--calibration-images": "--calibration-photos",
    "--calibration-masks": "--calibration-holes",
    "--fp16": "--precision=fp16",
    "--no-tf32": None,
    "--shapes": "--opt-shapes",
    "--strongly-typed": None,
    "--vc": "--version-compatible",
}
# What has no one meaning here, and what to say instead.
_INSTEAD: Mapping[str, str] = {
    "--best": "--precision with the one that is wanted",
    "--device": "CUDA_VISIBLE_DEVICES in the environment",
    "--export-layer-info": "layers.json in the engine's folder",
    "--fp8": "--precision fp16 or int8",
    "--int4": "--precision fp16 or int8",
    "--int8": "--precision int8, with --calibration-photos",
    "--load-engine": "`pconv-deploy bench ENGINE`",
    "--mem-pool-size": "--workspace MIB, the only pool that can be limited",
    "--onnx": "the graph as the first argument",
    "--profile": "--min-shapes, --opt-shapes and --max-shapes once more for each profile",
    "--save-engine": "-o FOLDER",
    "--skip-inference": "to be left out: nothing is timed, the engine only compared with its graph",
    "--sparsity=force": "--sparsity enable; to force it would change the weights",
    "--use-cuda-graph": "to be left out: graphs are captured when an engine runs",
    "--verbose": "to be left out: where a build fails, the message has TensorRT's own words",
}
_WORKSPACE = re.compile(r"workspace:(\d{1,9})([KMG]?)(?:iB)?")
_MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024}


class BuildCommand(PlainCommand):
    """A command that takes trtexec's words as well."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse, after trtexec's words have become ours."""
        return super().parse_args(ctx, in_our_words(args))


def kebab_case(word: str) -> str:
    """`--minShapes` is `--min-shapes`, `--noTF32` is `--no-tf32`."""
    return re.sub(r"(?<=[a-z])[A-Z]+", lambda letters: f"-{letters[0].lower()}", word)


def in_our_words(arguments: Sequence[str]) -> list[str]:
    """Translate what has one clear meaning; other words stay as they are.

    Raises:
        UsageError: a word of trtexec's that has no one meaning here; the message says what has.
    """
    translated = (_in_our_words(word) for word in arguments)
    return [word for word in translated if word is not None]


def _in_our_words(word: str) -> str | None:
    option, equals, value = word.partition("=")
    name = kebab_case(option)
    if name == "--mem-pool-size" and (found := _WORKSPACE.fullmatch(value)):
        return f"--workspace={max(1, round(int(found[1]) * _MIB[found[2]]))}"
    for known in (name, f"{name}{equals}{value}"):
        if known in _INSTEAD:
            raise UsageError(f"{word} is a word of trtexec's; here it is {_INSTEAD[known]}")
    if name not in _SAME:
        return word
    same = _SAME[name]
    return None if same is None else f"{same}{equals}{value}"
