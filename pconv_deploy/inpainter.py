"""Filling holes with an engine: what a program embeds."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack, overload

import numpy as np
from PIL import Image

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.engines.sessions import DeviceSession, RunOptions, Session
from pconv_deploy.engines.shapes import Size, shapes_of
from pconv_deploy.errors import EngineError, ImageError, InputError, UsageError
from pconv_deploy.images import hole_rule
from pconv_deploy.images.arrays import AnyImage, Bytes, Hole, Pixels, like, to_pixels
from pconv_deploy.images.feather import MOST_FEATHER
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskConvention, MaskReading, MaskRule
from pconv_deploy.images.prepared import (
    CallOptions,
    ImageLike,
    Prepared,
    finish,
    log_notes,
    name_in_list,
    prepared,
    require_same_size,
)
from pconv_deploy.regions import DEFAULT_REGIONS, Region, RegionOptions, Regions, Runs

__all__ = ["Inpainter", "Prepared", "RegionOptions", "finish"]
_MAX_THREADS = 1024
_log = logging.getLogger(__name__)


class Inpainter:
    """Fills the holes of images with a loaded engine.

        with Inpainter.load("model.engine") as inpaint:
            filled = inpaint(image, hole_mask)

    Threads may share it. Use `load`; the constructor is for a session of your own.
    """

    def __init__(
        self,
        contract: GraphContract,
        session: Session,
        manifest: Manifest | None = None,
        streams: int = 1,
        regions: RegionOptions = DEFAULT_REGIONS,
    ) -> None:
        if contract.kind != "deployment":
            raise EngineError(
                "this engine takes and returns float tensors; images need the deployment graph. "
                "Export again without --tensor-level, or run the engine with engines.folder"
            )
        self.contract, self.manifest = contract, manifest
        self._session, self._streams = session, streams
        self._shapes = shapes_of(contract, manifest.engine.profiles if manifest else ())
        memory = manifest.memory if manifest else None
        side = contract.source.training.get("size")  # of the images, if its checkpoint has it
        trained_at = side if isinstance(side, int) and side > 0 else None
        self._regions = Regions(regions, memory, self._shapes, trained_at, streams)
        self._runs = Runs(session, self._shapes, self._regions)
        self._closed = False

    @classmethod
    def load(
        cls,
        engine: str | Path,
        *,
        threads: int | None = None,
        streams: int = 1,
        regions: RegionOptions = DEFAULT_REGIONS,
    ) -> Self:
        """Open an engine folder.

        Args:
            engine: folder made by `pconv-deploy build-engine`.
            threads: of one call; None lets the runtime use all cores.
            streams: calls that run at once in OpenVINO and TensorRT; ONNX Runtime runs all.
            regions: how much of a photo the network sees.

        Raises:
            EngineError: not an engine, changed after it was built, not made for images, or one that
                computes something else here than where it was accepted.
            MissingRuntimeError: its runtime is not installed.
            UsageError: `threads` or `streams` is no whole number from 1 to 1024.
        """
        for name, count in (("threads", threads), ("streams", streams)):
            if not (_is_count(count, _MAX_THREADS) or (name == "threads" and count is None)):
                raise UsageError(f"found {name}={count!r}; needed 1 to {_MAX_THREADS}")
        options = RunOptions(threads=threads, streams=streams)
        manifest, session = open_engine(Path(engine), options)
        try:
            return cls(manifest.contract, session, manifest, streams, regions)
        except EngineError:
            session.close()
            raise

    @overload
    def __call__(
        self, image: AnyImage, hole_mask: ImageLike, **options: Unpack[CallOptions]
    ) -> AnyImage: ...
    @overload
    def __call__(
        self,
        image: Sequence[AnyImage],
        hole_mask: ImageLike | Sequence[ImageLike],
        **options: Unpack[CallOptions],
    ) -> list[AnyImage]: ...
    def __call__(
        self,
        image: Any,
        hole_mask: Any,
        *,
        mask_convention: MaskConvention = "hole-white",
        mask_threshold: int | None = None,
        opaque: bool = False,
        feather: int = 0,
    ) -> Any:
        """Fill the hole of one image, or of each image of a list.

        Args:
            image: a Pillow image (L, LA, RGB, RGBA, P, 1, I;16, I;16B) or an array (H, W) or
                (H, W, C) of uint8 or uint16, grey or RGB, with or without alpha; or a list of such,
                of any sizes. A Pillow image is taken as stored: to fill it as displayed, apply
                PIL.ImageOps.exif_transpose first.
            hole_mask: a Pillow image, or an array (H, W) or (H, W, C) of numbers, white = to be
                filled (docs/embedding.md, "What is a hole"); one for each image, or one for all.
            mask_convention: hole-white, hole-black or alpha: which mask pixels are the hole.
            mask_threshold: smallest level of a hole, 1..255; 1 takes every label of a label map.
                None is 16, and an error where a mask holds nothing but lower values.
            opaque: filled pixels lose their transparency.
            feather: width of a soft edge inside the hole, 0 to 100 pixels.

        Returns:
            Images of the same type, mode, depth, profile and EXIF with the hole's colours
            replaced. Every known pixel and, unless `opaque`, the alpha channel are unchanged. A
            palette image comes back as RGB or RGBA, a bilevel one as grey. What looks like a
            mistake is logged as INFO, see `Prepared.notes`.

        Raises:
            UsageError: an option that cannot be.
            ImageError: an image that cannot be filled, or larger than the engine takes.
            HoleMaskError: of another size, nothing known left, or of no sure meaning.
            EngineError: the runtime failed, for instance for want of memory.
        """
        rule = MaskRule(mask_convention, mask_threshold)
        single = isinstance(image, Image.Image | np.ndarray)
        if not single and not isinstance(image, list | tuple):
            raise ImageError(
                f"found a {type(image).__name__}; needed a Pillow image, a numpy array, or a list"
            )
        images = [image] if single else image
        listed = not single and isinstance(hole_mask, list | tuple)
        masks = hole_mask if listed else [hole_mask] * len(images)
        if len(masks) != len(images):
            raise UsageError(f"found {len(images)} images and {len(masks)} hole masks")
        items = []
        for index, pair in enumerate(zip(images, masks, strict=True)):
            name = "the image" if single else name_in_list(index, *pair)
            try:
                items.append(self.prepare(*pair, rule, opaque=opaque, feather=feather))
            except InputError as error:
                raise error if single else type(error)(f"{name}: {error}") from error
            log_notes(_log, name, items[-1])
        filled = [like(*pair) for pair in zip(images, self.fill(items), strict=True)]
        return filled[0] if single else filled

    def warm_up(self, sizes: Iterable[Size] | None = None, batch: int = 1) -> None:
        """Run once for each size and stream, so that the first real call is as fast as the rest.

        Args:
            sizes: (height, width) of each; None: those the engine is fastest at, or 512x512.
            batch: images per call.

        Raises:
            UsageError: a size or batch that cannot be.
            ImageError: larger than the engine takes.
        """
        wanted = list(sizes or self._shapes.usual)
        for size in wanted:
            if not isinstance(size, tuple | list) or [*map(_is_count, size)] != [True, True]:
                raise UsageError(f"found size {size!r}; needed (height, width), both from 1")
        if not _is_count(batch):
            raise UsageError(f"found batch={batch!r}; needed a whole number from 1")
        windows = self.manifest is not None and self.manifest.windows is not None
        for height, width in wanted:
            padded = self._shapes.padded(height, width)
            image, blank = np.zeros((*padded, 3), np.uint8), np.zeros((height, width, 3), np.uint8)
            large, small = np.full(padded, 255, np.uint8), np.zeros(padded, np.uint8)
            large[0, 0], small[-1, -1] = 0, 255
            for hole_mask in [large, small][: 1 + windows] * self._streams:
                self.run([Prepared(blank, hole_mask != 0, image, hole_mask)] * batch)

    def fill_on_device(
        self, image: Any, hole_mask: Any, *, stream: Any = None, filled: Any = None
    ) -> Any:
        """Fill images that are on the GPU, and leave the results there: see docs/gpu-runtime.md.

        Args:
            image: (N, H, W, 3) uint8, contiguous, of PyTorch, CuPy, pycuda or whatever offers
                `__cuda_array_interface__` or DLPack. It is not padded to what the engine takes.
            hole_mask: (N, H, W) uint8, nonzero = to be filled.
            stream: the caller's, whose later work sees the result; None waits for the result.
            filled: array like `image` to write into; None makes one that offers both protocols.

        Returns:
            `filled`, (N, H, W, 3) uint8.

        Raises:
            UsageError: the engine's runtime takes no arrays on the GPU, or `stream` is no stream.
            InputError: an array that is not contiguous, or of another type, shape or device.
            EngineError: the runtime failed, takes no such size or batch, or is closed.
        """
        self._require_open()
        if not isinstance(self._session, DeviceSession):
            backend = f"the {self.manifest.backend} backend" if self.manifest else "its runtime"
            raise UsageError(
                f"found an engine whose arrays are on the host, as {backend} takes them; "
                "needed one of the tensorrt backend"
            )
        outputs = None if filled is None else {FILLED: filled}
        inputs = {IMAGE: image, HOLE_MASK: hole_mask}
        return self._session.run_on_device(inputs, stream, outputs)[FILLED]

    def close(self) -> None:
        """Free the engine; further calls raise EngineError."""
        self._closed = True
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def fill(self, prepared: Sequence[Prepared]) -> list[Pixels]:
        """Fill images of any sizes; results are their own pixels (H, W, C), holes replaced."""
        self._require_open()
        return self._runs.fill(prepared)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    def prepare(
        self,
        image: ImageLike,
        hole_mask: ImageLike,
        rule: MaskRule = DEFAULT_RULE,
        *,
        opaque: bool = False,
        feather: int = 0,
    ) -> Prepared:
        """Check, convert and pad: the first of a call's three steps; `run` and `finish` follow."""
        pixels, mask = to_pixels(image), hole_rule.read_mask(hole_mask, rule)
        require_same_size(mask.hole, image, hole_mask)
        return self.prepare_hole(pixels, mask.hole, mask, opaque=opaque, feather=feather)

    def prepare_hole(
        self,
        pixels: Pixels,
        hole: Hole,
        mask: MaskReading,
        *,
        region: Region | None = None,
        opaque: bool = False,
        feather: int = 0,
    ) -> Prepared:
        """Do as `prepare`, with a hole (H, W) read from `mask`, and perhaps turned or grown."""
        if not (isinstance(feather, int) and 0 <= feather <= MOST_FEATHER):
            raise UsageError(f"found feather={feather!r}; needed pixels, 0 to {MOST_FEATHER}")
        regions = self._regions.of(region)  # None: as the engine was loaded
        padded, crops = regions.padded(*hole.shape), regions.crops(hole)
        item = prepared(pixels, hole, mask, padded, crops, opaque=opaque)
        return replace(item, feather=feather)

    def padded_size(self, height: int, width: int, region: Region | None = None) -> Size:
        """Return the (height, width) to which an image is padded if it is seen whole.

        Raises:
            ImageError: larger than the engine takes, and not to be filled in parts.
        """
        return self._regions.of(region).padded(height, width)

    def run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        """Run the engine as often as images of one padded size need; results (H', W', 3) uint8."""
        return self._runs.run(prepared)


def _is_count(value: Any, most: int | None = None) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= 1) and (most is None or bool(value <= most))
