"""Requests with the answers that they must get, to the byte: what `Inpainter` makes of them."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.files import read_image
from pconv_deploy.images.writing import encode_image
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.kserve import HEAD_LENGTH

# (height, width) of the mixed load; several of them are padded to one size.
SIZES = ((64, 64), (100, 150), (128, 128), (150, 90), (256, 200), (256, 256), (384, 256))
_BOUNDARY = "pconv-load"


@dataclass(frozen=True)
class Exchange:
    """A whole request, head and body, and the content that must answer it.

    kind  tensors, files (both KServe) or form
    """

    kind: str
    size: tuple[int, int]
    request: bytes
    expected: bytes


def picture(size: tuple[int, int], seed: int) -> tuple[Bytes, Bytes]:
    """Make a soft picture (H, W, 3) and the mask (H, W) of a hole in it, uint8, hole 255."""
    rng = np.random.default_rng(seed)
    height, width = size
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-6, 7, image.shape)
    hole = np.zeros(size, np.uint8)
    top, left = (int(rng.integers(side // 2)) for side in size)
    hole[top : top + height // 3, left : left + width // 3] = 255
    return np.clip(image + noise, 0, 255).astype(np.uint8), hole


def mixed(inpaint: Inpainter, seed: int) -> list[Exchange]:
    """Requests of every kind and size; the answers are computed here."""
    found = []
    for index, size in enumerate(SIZES):
        image, hole_mask = picture(size, 1000 * seed + index)
        found.append(tensors(inpaint, image, hole_mask))
        found.append(_files(inpaint, image, hole_mask))
        found.append(_form(inpaint, image, hole_mask, "JPEG" if index % 2 else "PNG"))
    random.Random(seed).shuffle(found)
    return found


def tensors(inpaint: Inpainter, image: Bytes, hole_mask: Bytes) -> Exchange:
    """KServe, binary tensors of one image."""
    content = image.tobytes() + hole_mask.tobytes()
    arrays = {IMAGE: image[None], HOLE_MASK: hole_mask[None]}
    inputs = [
        _input(name, "UINT8", list(array.shape), array.nbytes) for name, array in arrays.items()
    ]
    request = _infer(inputs, {"binary_data_output": True}, content)
    expected = inpaint(image, hole_mask).tobytes()
    return Exchange("tensors", hole_mask.shape[:2], request, expected)


def _files(inpaint: Inpainter, image: Bytes, hole_mask: Bytes) -> Exchange:
    files = [_encoded(image, "PNG"), _encoded(hole_mask, "PNG")]
    content = b"".join(_counted(file) for file in files)
    inputs = [
        _input(name, "BYTES", [1], 4 + len(file))
        for name, file in zip((IMAGE, HOLE_MASK), files, strict=True)
    ]
    request = _infer(inputs, {"binary_data_output": True}, content)
    expected = _counted(_filled(inpaint, files[0], hole_mask, ".png"))
    return Exchange("files", hole_mask.shape[:2], request, expected)


def _form(inpaint: Inpainter, image: Bytes, hole_mask: Bytes, kind: str) -> Exchange:
    files = {"image": _encoded(image, kind), "mask": _encoded(hole_mask, "PNG")}
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        for name in files
    ]
    body = b"".join(
        head.encode() + content + b"\r\n"
        for head, content in zip(parts, files.values(), strict=True)
    )
    body += f"--{_BOUNDARY}--\r\n".encode()
    head = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    expected = _filled(inpaint, files["image"], hole_mask, ".jpg" if kind == "JPEG" else ".png")
    request = _post("/v1/models/load/fill", head, body)
    return Exchange("form", hole_mask.shape[:2], request, expected)


def _filled(inpaint: Inpainter, file: bytes, hole_mask: Bytes, suffix: str) -> bytes:
    """What `pconv-deploy infer` writes."""
    stream, name = io.BytesIO(), Path(f"filled{suffix}")
    encode_image(name, inpaint(read_image(name, content=file), hole_mask), stream)
    return stream.getvalue()


def _encoded(pixels: Bytes, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _counted(file: bytes) -> bytes:
    return len(file).to_bytes(4, "little") + file


def _input(name: str, datatype: str, shape: Sequence[int], size: int) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def _infer(inputs: Sequence[Any], parameters: dict[str, Any], content: bytes) -> bytes:
    head = msgspec.json.encode({"inputs": inputs, "parameters": parameters})
    return _post("/v2/models/load/infer", {HEAD_LENGTH: str(len(head))}, head + content)


def _post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    told = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
