from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy import Inpainter
from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.contract import FILLED, GraphContract, tensor_specs
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.shapes import Profile, choose
from pconv_deploy.errors import (
    EngineError,
    HoleMaskError,
    ImageError,
    PictureSizeError,
    UsageError,
)
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.export.verify import literal_fill
from pconv_deploy.parity import compare, parity_inputs
from pconv_deploy.regions import RegionOptions

Photo = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize("case", parity_inputs(37, 58), ids=lambda case: case.name)
def test_fills_as_the_literal_network_does(
    inpainter: Inpainter, checkpoint: Path, case: Any
) -> None:
    if case.name == "all hole":
        with pytest.raises(HoleMaskError, match="covers the whole image"):
            inpainter(case.image, case.hole_mask)
        return
    filled = inpainter(case.image, case.hole_mask)
    colours, known = np.zeros((1, 3, 48, 64)), np.zeros((1, 1, 48, 64), bool)
    colours[0, :, :37, :58] = np.moveaxis(case.image, -1, 0) / 255
    known[0, 0, :37, :58] = case.hole_mask == 0
    raw = literal_fill(load_checkpoint(checkpoint))(colours, known)
    expected = np.moveaxis(raw[0, :, :37, :58], 0, -1)
    result = compare(case, expected, filled=filled, raw=None, tolerance=1e-5)
    assert result.known_identical
    assert result.level_difference is not None
    assert result.level_difference <= 1


def test_without_a_hole_nothing_is_computed(
    inpainter: Inpainter, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inpainter._runs, "run", None)
    image = photo()
    result = inpainter(image, np.zeros((40, 56)))
    assert (result == image).all()
    assert result is not image


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((40, 56), np.uint8),
        ((40, 56, 1), np.uint16),
        ((40, 56, 2), np.uint16),
        ((40, 56, 3), np.uint8),
        ((40, 56, 4), np.uint16),
    ],
)
def test_arrays_come_back_as_they_came(
    inpainter: Inpainter, photo: Photo, box: Photo, shape: tuple[int, ...], dtype: Any
) -> None:
    channels = shape[2] if len(shape) == 3 else 1
    image = photo(40, 56, channels).reshape(shape).astype(dtype) * dtype(
        200 if dtype is np.uint16 else 1
    )
    result = inpainter(image, box())
    hole = box() != 0
    assert result.shape == shape
    assert result.dtype == dtype
    assert (result[~hole] == image[~hole]).all()
    colours = slice(0, 3 if channels >= 3 else 1)
    inside = result.reshape(40, 56, channels)[hole]
    before = image.reshape(40, 56, channels)[hole]
    assert (inside[:, colours] != before[:, colours]).mean() > 0.9
    if channels in (2, 4):
        assert (inside[:, -1] == before[:, -1]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "P", "1"])
def test_pillow_images_keep_their_mode_and_facts(
    inpainter: Inpainter, photo: Photo, box: Photo, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo(40, 56, 1)[:, :, 0].astype(np.uint16) * 250)
    else:
        image = Image.fromarray(photo()).convert(mode)
    image.info |= {"icc_profile": b"profile", "dpi": (72, 72)}
    result = inpainter(image, Image.fromarray(box()))
    assert result.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    assert result.size == (56, 40)
    assert result.info["icc_profile"] == b"profile"
    before = np.asarray(image.convert(result.mode) if mode in ("P", "1") else image)
    hole = box() != 0
    assert (np.asarray(result)[~hole] == before[~hole]).all()
    assert (np.asarray(result)[hole] != before[hole]).any()


def test_views_and_read_only_arrays(inpainter: Inpainter, photo: Photo, box: Photo) -> None:
    image, mask = photo(80, 112)[::2, ::-2], box(80, 112)[::2, ::-2]
    image.flags.writeable = False
    expected = inpainter(np.ascontiguousarray(image), np.ascontiguousarray(mask))
    assert (inpainter(image, mask) == expected).all()
    assert (mask == box(80, 112)[::2, ::-2]).all()


def test_a_batch_of_mixed_sizes_equals_one_by_one(
    inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    sizes = [(40, 56), (16, 16), (40, 56), (33, 47), (90, 20)]
    images, masks = [photo(*size) for size in sizes], [box(*size) for size in sizes]
    together = inpainter(images, masks)
    for image, mask, filled in zip(images, masks, together, strict=True):
        alone = inpainter(image, mask)
        assert np.abs(filled.astype(int) - alone).max() <= 1  # another batch, other roundings
        assert (filled[mask == 0] == image[mask == 0]).all()


def test_one_mask_for_all(inpainter: Inpainter, photo: Photo, box: Photo) -> None:
    results = inpainter([photo(), photo()], box())
    assert len(results) == 2
    assert inpainter([], box()) == []
    with pytest.raises(UsageError, match="found 2 images and 1 hole masks"):
        inpainter([photo(), photo()], [box()])


def test_what_cannot_be_filled(inpainter: Inpainter, photo: Photo, box: Photo) -> None:
    refused: tuple[tuple[Any, Any, type[Exception], str], ...] = (
        (photo(), box(56, 40), HoleMaskError, "needed the same size"),
        (photo() / 255, box(), ImageError, "float64"),
        ("photo.jpg", box(), ImageError, "found a str"),
        ([None], box(), ImageError, "found a NoneType"),
        (photo(), "mask.png", HoleMaskError, "found a str as hole mask"),
        (photo(), None, HoleMaskError, "found a NoneType as hole mask"),
    )
    for image, mask, kind, message in refused:
        with pytest.raises(kind, match=message):
            inpainter(image, mask)


@pytest.mark.parametrize("threads", [0, "4", True, 2**31])
def test_threads_that_cannot_be(engine: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="needed 1 to 1024"):
        Inpainter.load(engine, threads=threads)
    with pytest.raises(UsageError, match="found streams="):
        Inpainter.load(engine, streams=threads)


def test_many_threads_at_once(inpainter: Inpainter, photo: Photo, box: Photo) -> None:
    sizes = [(40, 56), (16, 16), (64, 32)]
    expected = {size: inpainter(photo(*size), box(*size)) for size in sizes}

    def fill(number: int) -> bool:
        size = sizes[number % 3]
        return bool((inpainter(photo(*size), box(*size)) == expected[size]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, range(60)))


def test_warm_up_and_close(engine: Path, photo: Photo, box: Photo) -> None:
    with Inpainter.load(str(engine)) as inpainter:
        inpainter.warm_up([(40, 56), (1, 1), (1, 9)], batch=2)
        inpainter.warm_up()
        assert inpainter.manifest is not None
    for hole_mask in (box(), np.zeros((40, 56))):
        with pytest.raises(EngineError, match="closed"):
            inpainter(photo(), hole_mask)


@pytest.mark.parametrize("arguments", [([(0, 5)],), ((512, 512),), ([(8, 8)], 0), ([5],)])
def test_warm_ups_that_cannot_be(inpainter: Inpainter, arguments: Any) -> None:
    with pytest.raises(UsageError, match="needed"):
        inpainter.warm_up(*arguments)


@pytest.fixture(scope="module")
def fixed_engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixed")
    options = ExportOptions(batch=2, size=(32, 48))
    export_checkpoint(checkpoint, folder / "fixed.onnx", options)
    build_engine(folder / "fixed.onnx", folder / "fixed.engine")
    return folder / "fixed.engine"


def test_an_engine_of_fixed_shape_takes_what_fits(
    fixed_engine: Path, photo: Photo, box: Photo
) -> None:
    with Inpainter.load(fixed_engine) as inpainter:
        images = [photo(32, 48), photo(30, 20), photo(7, 48)]
        masks = [box(32, 48), box(30, 20), box(7, 48)]
        for image, mask, filled in zip(images, masks, inpainter(images, masks), strict=True):
            assert filled.shape == image.shape
            assert (filled[mask == 0] == image[mask == 0]).all()
            assert (filled[mask != 0] != image[mask != 0]).any()
    with (
        Inpainter.load(fixed_engine, regions=RegionOptions(region="exact")) as exact,
        pytest.raises(ImageError, match=r"49x32; this engine takes at most 48x32"),
    ):
        exact(photo(32, 49), box(32, 49))


def test_an_engine_of_fixed_shape_fills_larger_photos_in_parts(
    fixed_engine: Path, photo: Photo
) -> None:
    image, hole_mask = photo(200, 300), np.zeros((200, 300), np.uint8)
    hole_mask[10:20, 10:30] = hole_mask[150:170, 200:247] = 255
    with Inpainter.load(fixed_engine) as inpainter:
        item = inpainter.prepare(image, hole_mask)
        assert [(b - t, r - le) for t, le, b, r in item.crops] == [(32, 48)] * 2
        assert "the network saw 48x32, 48x32 of 300x200" in item.notes[-1].text
        filled = inpainter(image, hole_mask)
        np.testing.assert_array_equal(filled[hole_mask == 0], image[hole_mask == 0])
        for top, left, bottom, right in item.crops:
            part = np.s_[top:bottom, left:right]
            np.testing.assert_array_equal(filled[part], inpainter(image[part], hole_mask[part]))
        hole_mask[150:170, 200:249] = 255
        why = r"a hole needs a part of 49x32 .* at most 48x32; scale the photo down, or export"
        with pytest.raises(PictureSizeError, match=why):
            inpainter(image, hole_mask)


class ProfileSession:
    """Takes what these profiles take, as TensorRT does, and fills with 7."""

    def __init__(self, *profiles: Profile) -> None:
        self.profiles, self.seen = profiles, list[tuple[int, ...]]()

    def run(self, inputs: Any) -> Any:
        batch, height, width = inputs["hole_mask"].shape
        choose(self.profiles, (batch, height, width))
        self.seen.append((batch, height, width))
        return {FILLED: np.full_like(inputs["image"], 7)}

    def close(self) -> None:
        pass


def test_an_engine_of_a_few_shapes_takes_what_fits(
    inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    assert inpainter.manifest is not None
    session = ProfileSession(
        Profile(min=(1, 32, 64), opt=(1, 32, 64), max=(1, 64, 64)),
        Profile(min=(2, 32, 64), opt=(3, 32, 64), max=(3, 32, 64)),
    )
    built = Built(profiles=tuple(session.profiles))
    manifest = msgspec.structs.replace(inpainter.manifest, engine=built, windows=None)
    limited = Inpainter(inpainter.contract, session, manifest)
    sizes = [(20, 30), (32, 64), (50, 64), (4, 64), (30, 9)]
    images, masks = [photo(*size) for size in sizes], [box(*size) for size in sizes]
    for image, mask, filled in zip(images, masks, limited(images, masks), strict=True):
        assert (filled[mask != 0] == 7).all()
        assert (filled[mask == 0] == image[mask == 0]).all()
    assert session.seen == [(3, 32, 64), (1, 32, 64), (1, 64, 64)]
    session.seen.clear()
    limited.warm_up(batch=2)
    assert session.seen == [(2, 32, 64)]
    exact = Inpainter(inpainter.contract, session, manifest, regions=RegionOptions(region="exact"))
    with pytest.raises(ImageError, match=r"65x9; this engine takes at most 64x64. Scale it down"):
        exact(photo(9, 65), box(9, 65))
    assert (limited(photo(9, 65), box(9, 65))[box(9, 65) != 0] == 7).all()


class ConstantSession:
    """A runtime of one line: what the protocol asks of a backend, and no more."""

    def run(self, inputs: Any) -> Any:
        return {FILLED: np.full_like(inputs["image"], 7)}

    def close(self) -> None:
        pass


def test_a_tensor_engine_is_refused(inpainter: Inpainter) -> None:
    inputs, outputs = tensor_specs(None, None)
    contract = msgspec.structs.replace(
        inpainter.contract, kind="tensor", inputs=inputs, outputs=outputs
    )
    with pytest.raises(EngineError, match=r"float tensors.*without --tensor-level"):
        Inpainter(contract, ConstantSession())


def test_known_pixels_are_safe_even_from_a_faulty_runtime(
    inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    contract: GraphContract = inpainter.contract
    result = Inpainter(contract, ConstantSession())(photo(), box())
    assert (result[box() != 0] == 7).all()
    assert (result[box() == 0] == photo()[box() == 0]).all()
