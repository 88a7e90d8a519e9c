"""KServe's protocol, spoken by clients that make mistakes or mean no good."""

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.kserve import HEAD_LENGTH, read_request
from tests.serving.live import Answer, ask, encoded

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
BOTH = IMAGE, HOLE
LARGE = ("image", [1, 900, 900, 3], 2_430_000), ("hole_mask", [1, 900, 900], 810_000)
SHARED = [{"name": "filled", "parameters": {"shared_memory_region": "a"}}]
# A head, how many bytes follow it, and what is said.
WRONG: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"{", 0, "JSON cannot be used"),
    "a list": (b"[]", 0, "JSON cannot be used"),
    "no inputs": (b"{}", 0, "JSON cannot be used"),
    "one input": (request(IMAGE), 12, "found image; needed image and hole_mask"),
    "two of a name": (request(IMAGE, IMAGE), 24, "two inputs of the name 'image'"),
    "another input": (request(IMAGE, ("mask", [1], 4)), 16, "found image, mask"),
    "another output": (request(*BOTH, outputs=[{"name": "output"}]), 16, "needed filled"),
    "shared memory": (request(*BOTH, outputs=SHARED), 16, "found shared_memory_region; needed bin"),
    "no boolean": (request(*BOTH, parameters={"binary_data_output": "no"}), 16, "true or false"),
    "a parameter": (
        request(*BOTH, parameters={"dilate": 2}),
        16,
        "found dilate; tensors take none",
    ),
    "a list in it": (request(*BOTH, parameters={"dilate": [2]}), 16, "JSON cannot be used"),
    "a large answer in JSON": (request(*LARGE), 3_240_000, "ask for binary_data"),
    "too few bytes": (request(*BOTH), 15, "binary_data_size of 'hole_mask'"),
    "too many bytes": (request(*BOTH), 17, "1 bytes more"),
    "negative bytes": (request(IMAGE, ("hole_mask", [1, 2, 2], -4)), 12, "found -4"),
    "bytes as text": (request(IMAGE, ("hole_mask", [1, 2, 2], "4")), 16, "found 4"),
    "another shape": (request(("image", [1, 2, 3, 3], 12), HOLE), 16, "found 12; needed 18 by its"),
    "no batch": (request(("image", [2, 2, 3], 12), HOLE), 16, "needed (N, H, W, 3)"),
    "a zero": (request(("image", [0, 2, 2, 3], 0), HOLE), 4, "sides from 1"),
    "a negative": (request(("image", [-1, 2, 2, 3], 12), HOLE), 16, "sides from 1"),
    "a huge shape": (request(("image", [100, 1 << 30, 1 << 30, 3], 12), HOLE), 16, "by its shape"),
    "beyond 64 bits": (request(("image", [1 << 70, 2, 2, 3], 12), HOLE), 16, "sides from 1"),
    "many images": (request(("image", [129, 1, 1, 1], 129), HOLE), 133, "at most 128"),
    "four channels": (request(("image", [1, 2, 2, 4], 16), HOLE), 20, "(N, H, W) of the same"),
    "unequal sizes": (request(IMAGE, ("hole_mask", [1, 2, 1], 2)), 14, "of the same N, H and W"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case: str, address: Address) -> None:
    head, following, message = WRONG[case]
    answer = infer(address, head, following)
    assert (answer.status, message in answer.json["error"]) == (400, True), answer.json


def infer(address: Address, head: bytes, following: int) -> Answer:
    headers = {HEAD_LENGTH: str(len(head))}
    return ask(address, "/v2/models/tiny/infer", head + bytes(following), headers)


def as_json(datatype: str = "UINT8", **data: Any) -> bytes:
    shapes = {"image": [1, 1, 2, 3], "hole_mask": [1, 1, 2]}
    inputs = [
        {"name": name, "shape": shapes[name], "datatype": datatype, "data": values}
        for name, values in data.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


NUMBERS = [[0, 256], [0, -1], [0, 1.5], [0, float("nan")], [0, "1"], [0, None], [[0], [1, 2]], {}]
NUMBERS += [[0, 1 << 80], "01", [0], [0, 1, 2], [0, True], [0, {"0": 1}], [0, "[1]"]]


@pytest.mark.parametrize("values", NUMBERS)
def test_wrong_numbers(values: Any, address: Address) -> None:
    body = as_json(image=[0] * 6, hole_mask=values)
    answer = ask(address, "/v2/models/tiny/infer", body)
    assert answer.status == 400, answer


@pytest.mark.parametrize("datatype", ["FP32", "uint8", ""])
def test_other_types(datatype: str, address: Address) -> None:
    body = as_json(datatype, image=[0.5] * 6, hole_mask=[0, 1])
    answer = ask(address, "/v2/models/tiny/infer", body)
    assert answer.status == 400
    assert "needed UINT8 or BYTES" in answer.json["error"]


PADDED: dict[str, tuple[bytes, int, str]] = {
    "long and narrow": (
        request(("image", [1, 2, 3000, 3], 18_000), ("hole_mask", [1, 2, 3000], 6_000)),
        24_000,
        "padded for the network 3008x16",
    ),
    "many small ones": (
        request(("image", [128, 1, 1, 3], 384), ("hole_mask", [128, 1, 1], 128)),
        512,
        "found 128 images of 0.03 megapixels together",
    ),
}


@pytest.mark.parametrize("case", PADDED)
def test_padded_sizes_are_bounded_before_memory_is_taken(case: str, small: Address) -> None:
    head, following, message = PADDED[case]
    answer = infer(small, head, following)
    assert (answer.status, message in answer.json["error"]) == (413, True), answer.json


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
