"""KServe's protocol, spoken by clients that make mistakes or mean no good."""

import base64
import json
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.kserve import HEAD_LENGTH, read_request
from tests.serving.live import ask, encoded

Address = tuple[str, int]


def request(*inputs: tuple[str, Any, Any], **more: Any) -> bytes:
    """A head, of (name, shape, bytes behind it)."""
    told = [
        {
            "name": name,
            "shape": shape,
            "datatype": "UINT8",
            "parameters": {"binary_data_size": size},
        }
        for name, shape, size in inputs
    ]
    return json.dumps({"inputs": told} | more).encode()


IMAGE, HOLE = ("image", [1, 2, 2, 3], 12), ("hole_mask", [1, 2, 2], 4)
WRONG: dict[str, tuple[bytes, bytes, str]] = {
    "no JSON": (b"{", b"", "JSON cannot be used"),
    "a list": (b"[]", b"", "JSON cannot be used"),
    "no inputs": (b"{}", b"", "JSON cannot be used"),
    "one input": (request(IMAGE), bytes(12), "found image; needed image and hole_mask"),
    "two of a name": (request(IMAGE, IMAGE), bytes(24), "two inputs of the name 'image'"),
    "another input": (request(IMAGE, ("mask", [1], 4)), bytes(16), "found image, mask"),
    "another output": (
        request(IMAGE, HOLE, outputs=[{"name": "output"}]),
        bytes(16),
        "needed filled",
    ),
    "an output in shared memory": (
        request(
            IMAGE, HOLE, outputs=[{"name": "filled", "parameters": {"shared_memory_region": "a"}}]
        ),
        bytes(16),
        "found shared_memory_region; needed binary_data",
    ),
    "no yes and no no": (
        request(IMAGE, HOLE, parameters={"binary_data_output": "no"}),
        bytes(16),
        "needed true or false",
    ),
    "an unknown parameter": (
        request(IMAGE, HOLE, parameters={"dilate": 2}),
        bytes(16),
        "found dilate; tensors take none",
    ),
    "a list as a parameter": (
        request(IMAGE, HOLE, parameters={"dilate": [2]}),
        bytes(16),
        "JSON cannot be used",
    ),
    "a large answer in JSON": (
        request(("image", [1, 900, 900, 3], 2_430_000), ("hole_mask", [1, 900, 900], 810_000)),
        bytes(3_240_000),
        "ask for binary_data",
    ),
    "too few bytes": (request(IMAGE, HOLE), bytes(15), "binary_data_size of 'hole_mask'"),
    "too many bytes": (request(IMAGE, HOLE), bytes(17), "1 bytes more"),
    "negative bytes": (request(IMAGE, ("hole_mask", [1, 2, 2], -4)), bytes(12), "found -4"),
    "bytes as text": (request(IMAGE, ("hole_mask", [1, 2, 2], "4")), bytes(16), "found 4"),
    "another shape": (
        request(("image", [1, 2, 3, 3], 12), HOLE),
        bytes(16),
        "found 12; needed 18 by its shape",
    ),
    "no batch": (request(("image", [2, 2, 3], 12), HOLE), bytes(16), "needed (N, H, W, 3)"),
    "a zero": (request(("image", [0, 2, 2, 3], 0), HOLE), bytes(4), "sides from 1"),
    "a negative": (request(("image", [-1, 2, 2, 3], 12), HOLE), bytes(16), "sides from 1"),
    "a huge shape": (
        request(("image", [100, 1 << 30, 1 << 30, 3], 12), HOLE),
        bytes(16),
        "by its shape",
    ),
    "a shape beyond 64 bits": (
        request(("image", [1 << 70, 2, 2, 3], 12), HOLE),
        bytes(16),
        "sides from 1",
    ),
    "many images": (request(("image", [129, 1, 1, 1], 129), HOLE), bytes(133), "at most 128"),
    "four channels": (
        request(("image", [1, 2, 2, 4], 16), HOLE),
        bytes(20),
        "needed (N, H, W, 3) and (N, H, W) of the same",
    ),
    "unequal sizes": (
        request(IMAGE, ("hole_mask", [1, 2, 1], 2)),
        bytes(14),
        "of the same N, H and W",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case: str, address: Address) -> None:
    head, content, message = WRONG[case]
    answer = ask(address, "/v2/models/tiny/infer", head + content, {HEAD_LENGTH: str(len(head))})
    assert (answer.status, message in answer.json["error"]) == (400, True), answer.json


def as_json(datatype: str = "UINT8", **data: Any) -> bytes:
    shapes = {"image": [1, 1, 2, 3], "hole_mask": [1, 1, 2]}
    inputs = [
        {"name": name, "shape": shapes[name], "datatype": datatype, "data": values}
        for name, values in data.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


@pytest.mark.parametrize(
    "values",
    [
        [0, 256],
        [0, -1],
        [0, 1.5],
        [0, float("nan")],
        [0, "1"],
        [0, None],
        [[0], [1, 2]],
        [0, 1 << 80],
        {},
        "01",
        [0],
        [0, 1, 2],
        [[0, 1], [2]],
        [0, True],
        [0, {"0": 1}],
        [0, "[1]"],
    ],
)
def test_wrong_numbers(values: Any, address: Address) -> None:
    body = as_json(image=[0] * 6, hole_mask=values)
    answer = ask(address, "/v2/models/tiny/infer", body)
    assert answer.status == 400, answer


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "uint8", ""])
def test_other_types(datatype: str, address: Address) -> None:
    answer = ask(
        address, "/v2/models/tiny/infer", as_json(datatype, image=[0.5] * 6, hole_mask=[0, 1])
    )
    assert answer.status == 400
    assert "needed UINT8 or BYTES" in answer.json["error"]


def test_long_and_narrow_images_are_refused_before_memory_is_taken(small: Address) -> None:
    """2 x 3000 pixels are 6,000, but 16 x 3008 when padded for this network."""
    head = request(("image", [1, 2, 3000, 3], 18_000), ("hole_mask", [1, 2, 3000], 6_000))
    answer = ask(
        small, "/v2/models/tiny/infer", head + bytes(24_000), {HEAD_LENGTH: str(len(head))}
    )
    assert answer.status == 413
    assert "padded for the network 3008x16" in answer.json["error"]


def test_numbers_flat_or_nested(address: Address, inpainter: Inpainter) -> None:
    image, hole_mask = (
        np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3),
        np.array([[[0, 1]]], np.uint8),
    )
    nested = as_json(image=image.tolist(), hole_mask=hole_mask.tolist())
    flat = as_json(image=image.ravel().tolist(), hole_mask=[0, 1])
    answers = [ask(address, "/v2/models/tiny/infer", body).json for body in (nested, flat)]
    expected = inpainter(image[0], hole_mask[0]).ravel().tolist()
    assert [answer["outputs"][0]["data"] for answer in answers] == [expected] * 2


def test_pictures_of_one_request_are_bounded_together(small: Address) -> None:
    """Each may have 10,000 pixels, all of them 20,000; encoded they are next to nothing."""
    image, hole_mask = encoded(np.zeros((90, 90, 3), np.uint8)), encoded(np.zeros((90, 90), bool))
    as_text = [base64.b64encode(content).decode() for content in (image, hole_mask)]
    for count, status in ((2, 200), (3, 413)):
        inputs = [
            {"name": name, "shape": [count], "datatype": "BYTES", "data": [text] * count}
            for name, text in zip(("image", "hole_mask"), as_text, strict=True)
        ]
        answer = ask(small, "/v2/models/tiny/infer", json.dumps({"inputs": inputs}).encode())
        assert answer.status == status, answer
    assert "found 3 images of 0.03 megapixels together" in answer.json["error"]


def test_tensors_of_one_request_are_bounded_together(small: Address) -> None:
    """128 images of one pixel are 128 of 16x16 when padded for this network."""
    head = request(("image", [128, 1, 1, 3], 384), ("hole_mask", [128, 1, 1], 128))
    answer = ask(small, "/v2/models/tiny/infer", head + bytes(512), {HEAD_LENGTH: str(len(head))})
    assert answer.status == 413
    assert "found 128 images of 0.03 megapixels together" in answer.json["error"]


def test_absurd_heads_raise_nothing_else() -> None:
    """Six thousand damaged requests, read without a server."""
    rng = random.Random(5)
    head = request(IMAGE, HOLE, outputs=[{"name": "filled", "parameters": {"binary_data": True}}])
    whole = head + bytes(16)
    refused = 0
    for _ in range(6000):
        body = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(body))
            body[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        length = rng.choice([str(len(head)), str(rng.randint(-5, 900)), "x", "9" * 40, None])
        try:
            read_request(bytes(body), length)
        except RequestError:
            refused += 1
    assert refused > 5000


@pytest.mark.parametrize(
    "values",
    [
        "[" + "0," * 500 + '"' + "a" * 400_000 + '"]',  # numpy would make room for 501 such texts
        "[" + "[]," * 300_000 + "0]",
        "[" * 400_000 + "]" * 400_000,
        "[" + "{}," * 300_000 + "0]",
        "[" + '"",' * 300_000 + '""]',
        "[0," + "9" * 900_000 + "]",
    ],
)
@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
def test_data_takes_little_more_memory_than_its_text(values: str, datatype: str) -> None:
    inputs = [
        f'{{"name":"{name}","shape":[1,1,1,1],"datatype":"{datatype}","data":{data}}}'
        for name, data in (("image", values), ("hole_mask", "[]"))
    ]
    body = f'{{"inputs":[{",".join(inputs)}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            read_request(body, None)
        assert tracemalloc.get_traced_memory()[1] < 16 * len(body)
    finally:
        tracemalloc.stop()
