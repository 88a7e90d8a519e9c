"""Methods that fill holes: checkpoints, engines and classical baselines."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pconv_deploy.contract import NETWORK_FILE, Sha256
from pconv_deploy.engines.manifest import MANIFEST, read_manifest
from pconv_deploy.errors import (
    EngineError,
    InputError,
    MissingRuntimeError,
    PConvError,
    Remedy,
    UsageError,
)
from pconv_deploy.file_types import is_graph
from pconv_deploy.files import sha256_of
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.regions import WHOLE

# image (H, W, 3) uint8, hole (H, W) of booleans -> (H, W, 3) uint8; only the hole is used.
Fill = Callable[[Bytes, Hole], Bytes]

# Label of the unharmed pictures, in tables and journals.
ORIGINAL = "original"
# Telea and Navier-Stokes look so far around a pixel; OpenCV's own examples use 3.
_RADIUS = 3
# PatchMatch compares patches of 2 * 3 + 1 pixels a side (Barnes et al. 2009).
_PATCH_RADIUS = 3


class MethodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A method before it is loaded; `sha256` of the checkpoint or of the engine's manifest."""

    label: str
    kind: Literal["baseline", "checkpoint", "engine"]
    source: str
    sha256: Sha256 | None = None


class Method(NamedTuple):
    """A loaded method; `close` frees it."""

    fill: Fill
    close: Callable[[], None]


def fill_hole(method: Method, image: Bytes, hole: Hole) -> Bytes:
    """Composite: the method's colours in the hole, the image's own everywhere else.

    Raises:
        PConvError: the method failed on this image.
    """
    filled = image.copy()
    if hole.any():
        try:
            filled[hole] = method.fill(image, hole)[hole]
        except PConvError:
            raise
        # OpenCV, SciPy, PatchMatch and PyTorch raise whatever comes up.
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
    return filled


def parse_methods(texts: Sequence[str]) -> tuple[MethodSpec, ...]:
    """Read methods as they are named on the command line: SOURCE or LABEL=SOURCE.

    Raises:
        InputError: no such method, checkpoint or engine.
        EngineError: a folder that is no engine.
        UsageError: two of one label.
    """
    specs = tuple(_parse_method(text) for text in texts)
    for label, count in Counter(spec.label for spec in specs).items():
        if count > 1:
            raise UsageError(f"{count} methods are called {label!r}; tell them apart: LABEL=METHOD")
        if label == ORIGINAL:
            raise UsageError(f"{label!r} means the unharmed pictures; choose another label")
    return specs


def _parse_method(text: str) -> MethodSpec:
    label, mark, source = text.partition("=")
    if not mark or Path(text).exists():  # names of files may hold "="
        label, source = "", text
    elif not label.strip():
        raise UsageError(f"found {text!r}; needed METHOD or LABEL=METHOD")
    if source in BASELINES:
        return MethodSpec(label=label or source, kind="baseline", source=source)
    path = Path(source)
    # Every training run calls its checkpoint so: the run tells them apart.
    named = path.resolve()
    named = named.parent if named.name == NETWORK_FILE else named
    label = (label or named.name).encode(errors="replace").decode()
    if path.is_dir():
        read_manifest(path)
        sha256 = sha256_of(path / MANIFEST)
        return MethodSpec(label=label, kind="engine", source=source, sha256=sha256)
    if path.is_file():
        if is_graph(path):
            raise InputError(
                f"{path} is a graph, no engine",
                Remedy(
                    purpose="Build one with",
                    command="build-engine",
                    arguments=(path,),
                    options={"output": "model.engine"},
                ),
            )
        return MethodSpec(label=label, kind="checkpoint", source=source, sha256=sha256_of(path))
    raise InputError(
        f"{source} does not exist; needed a checkpoint, an engine folder or one of "
        f"{', '.join(BASELINES)}"
    )


def open_method(spec: MethodSpec, threads: int | None = None) -> Method:
    """Load a method; `threads` of one fill, None for its own choice.

    Raises:
        PConvError: the checkpoint, the engine or a package it needs cannot be used.
    """
    if spec.kind == "engine":
        inpainter = Inpainter.load(spec.source, threads=threads, regions=WHOLE)
        _require_unchanged(spec, sha256_of(Path(spec.source, MANIFEST)))
        return Method(inpainter, inpainter.close)
    if spec.kind == "checkpoint":
        return Method(_checkpoint(spec, threads), lambda: None)
    try:
        return Method(BASELINES[spec.source](threads), lambda: None)
    except ImportError as error:
        raise MissingRuntimeError(
            f"{spec.source} needs {error.name}, which is not installed: "
            "pip install 'pconv-deploy[evaluate]'"
        ) from error


def _require_unchanged(spec: MethodSpec, sha256: Sha256) -> None:
    """Check the hash: kept scores must not belong to another file."""
    if sha256 != spec.sha256:
        raise InputError(f"{spec.source} was changed after the evaluation began; run it again")


def _checkpoint(spec: MethodSpec, threads: int | None) -> Fill:
    path = Path(spec.source)
    try:
        import torch
    except ImportError as error:
        raise MissingRuntimeError(
            f"{path} needs torch: pip install 'pconv-deploy[checkpoint]'"
        ) from error
    from pconv_deploy.checkpoints.native import load_checkpoint
    from pconv_deploy.export.ends import DeploymentGraph
    from pconv_deploy.network.architectures import for_inference

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    _require_unchanged(spec, checkpoint.source.sha256)
    graph = DeploymentGraph(for_inference(checkpoint.model), checkpoint.normalisation).eval()

    @torch.inference_mode()
    def fill(image: Bytes, hole: Hole) -> Bytes:
        hole_mask = torch.from_numpy(hole.astype(np.uint8))[None]
        pixels = torch.from_numpy(np.array(image))[None]  # a copy: PyTorch wants it writable
        filled, _raw = graph(pixels, hole_mask)
        result: Bytes = filled[0].numpy()
        return result

    return fill


def _mean(_threads: int | None) -> Fill:
    def fill(image: Bytes, hole: Hole) -> Bytes:
        colour = image[~hole].mean(0).round().astype(np.uint8)
        return np.broadcast_to(colour, image.shape)

    return fill


def _opencv(flag: str) -> Callable[[int | None], Fill]:
    def make(threads: int | None) -> Fill:
        import cv2

        if threads is not None:
            cv2.setNumThreads(threads)
        algorithm: int = getattr(cv2, flag)

        def fill(image: Bytes, hole: Hole) -> Bytes:
            hole_mask = hole.astype(np.uint8)
            return cv2.inpaint(image, hole_mask, _RADIUS, algorithm).astype(np.uint8, copy=False)

        return fill

    return make


def _patchmatch(_threads: int | None) -> Fill:
    import patchmatch

    def fill(image: Bytes, hole: Hole) -> Bytes:
        patchmatch.set_random_seed(0)
        hole_mask = hole.astype(np.uint8)[:, :, None] * np.uint8(255)
        filled: Bytes = patchmatch.inpaint(image.copy(), hole_mask, patch_size=_PATCH_RADIUS)
        return filled

    return fill


def _biharmonic(_threads: int | None) -> Fill:
    from skimage.restoration import inpaint_biharmonic

    def fill(image: Bytes, hole: Hole) -> Bytes:
        # Every connected part of the hole is a system of its own: smaller ones, the same result.
        filled = inpaint_biharmonic(image, hole, split_into_regions=True, channel_axis=-1)
        result: Bytes = np.round(filled * 255).clip(0, 255).astype(np.uint8)  # 0..1
        return result

    return fill


BASELINES: dict[str, Callable[[int | None], Fill]] = {
    "mean": _mean,
    "telea": _opencv("INPAINT_TELEA"),
    "navier-stokes": _opencv("INPAINT_NS"),
    "patchmatch": _patchmatch,
    "biharmonic": _biharmonic,
}
