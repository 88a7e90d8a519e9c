"""KServe's protocol, spoken by Triton's own client, and by clients that mean no good."""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.errors import RequestError
from pconv_deploy.serving.kserve import HEAD_LENGTH, read_request
from tests.serving.live import ask, encoded, fill

Photo = Callable[..., NDArray[np.uint8]]
Address = tuple[str, int]


@pytest.fixture
def client(address: Address) -> Any:
    with triton.InferenceServerClient(f"{address[0]}:{address[1]}") as client:
        yield client


def test_what_clients_ask_first(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["name"] == "pconv-deploy"
    told = client.get_model_metadata("tiny")
    assert told["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "hole_mask", "datatype": "UINT8", "shape": [-1, -1, -1]},
    ]
    assert told["outputs"] == [{"name": "filled", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    config = client.get_model_config("tiny")
    assert config["input"][1] == {
        "name": "hole_mask",
        "data_type": "TYPE_UINT8",
        "dims": [-1, -1],
    }


def tensors(binary: Any = True, **arrays: NDArray[Any]) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        kind = "BYTES" if array.dtype == np.object_ else "UINT8"
        inputs.append(triton.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return inputs


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_tensors_bit_for_bit(
    count: int, binary: bool, client: Any, inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    """Of a size that the engine does not take: padded and cropped as always."""
    image = np.stack([photo() + np.uint8(7 * index) for index in range(count)])
    hole_mask = np.stack([np.roll(box() // 255, 3 * index, 1) for index in range(count)])
    result = client.infer(
        "tiny",
        tensors(binary, image=image, hole_mask=hole_mask),
        outputs=[triton.InferRequestedOutput("filled", binary_data=binary)],
        request_id="mine",
    )
    expected = inpainter(list(image), list(hole_mask))
    assert np.array_equal(result.as_numpy("filled"), np.stack(expected))
    assert result.get_response()["id"] == "mine"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_refused_in_words(
    compression: str, client: Any, photo: Photo, box: Photo
) -> None:
    inputs = tensors(image=photo()[None], hole_mask=box()[None])
    with pytest.raises(triton.InferenceServerException, match="needed none"):
        client.infer("tiny", inputs, request_compression_algorithm=compression)


def test_files(client: Any, address: Address, photo: Photo, box: Photo) -> None:
    image, hole_mask = encoded(photo(), "JPEG"), encoded(box())
    arrays = {
        name: np.array([content, content], np.object_)
        for name, content in (("image", image), ("hole_mask", hole_mask))
    }
    parameters = {"dilate": 2, "format": "png", "opaque": True}
    result = client.infer("tiny", tensors(**arrays), parameters=parameters)
    expected = fill(address, image, hole_mask, dilate="2", format="png").body
    assert list(result.as_numpy("filled")) == [expected] * 2


def test_counts(client: Any, photo: Photo, box: Photo) -> None:
    before = client.get_inference_statistics("tiny")["model_stats"][0]
    client.infer("tiny", tensors(image=photo()[None], hole_mask=box()[None]))
    with pytest.raises(triton.InferenceServerException):
        client.infer("tiny", tensors(image=photo()[None], hole_mask=np.ones((1, 40, 56), np.uint8)))
    after = client.get_inference_statistics("tiny")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    stats, earlier = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] == earlier["success"]["count"] + 1
    assert stats["fail"]["count"] == earlier["fail"]["count"] + 1
    assert stats["compute_infer"]["ns"] > earlier["compute_infer"]["ns"]


def test_everything_is_hole(client: Any, photo: Photo) -> None:
    holes = np.ones((1, 40, 56), np.uint8)
    with pytest.raises(triton.InferenceServerException, match="nothing is known"):
        client.infer("tiny", tensors(image=photo()[None], hole_mask=holes))


def test_long_and_narrow_images_are_refused_before_memory_is_taken(small: Address) -> None:
    """2 x 3000 pixels are 6,000, but 16 x 3008 when padded for this network."""
    head = request(("image", [1, 2, 3000, 3], 18_000), ("hole_mask", [1, 2, 3000], 6_000))
    answer = ask(
        small, "/v2/models/tiny/infer", head + bytes(24_000), {HEAD_LENGTH: str(len(head))}
    )
    assert answer.status == 413
    assert "padded for the network 3008x16" in answer.json["error"]


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
    "a zero": (request(("image", [0, 2, 2, 3], 0), HOLE), bytes(4), "needed sides from 1"),
    "a negative": (request(("image", [-1, 2, 2, 3], 12), HOLE), bytes(16), "needed sides from 1"),
    "a huge shape": (
        request(("image", [100, 1 << 30, 1 << 30, 3], 12), HOLE),
        bytes(16),
        "by its shape",
    ),
    "a shape beyond 64 bits": (
        request(("image", [1 << 70, 2, 2, 3], 12), HOLE),
        bytes(16),
        "needed sides from 1",
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


def test_metrics(address: Address, client: Any, photo: Photo, box: Photo) -> None:
    client.infer("tiny", tensors(image=photo()[None], hole_mask=box()[None]))
    ask(address, "/v1/models/made-up-by-a-client/fill", b"")
    text = ask(address, "/metrics").body.decode()
    assert 'pconv_requests_total{endpoint="infer",model="tiny",status="200"}' in text
    assert 'pconv_requests_total{endpoint="fill",model="",status="404"}' in text
    assert "made-up" not in text
    for stage in ("queue", "decode", "pre", "infer", "post", "encode"):
        assert f'pconv_stage_seconds_count{{model="tiny",stage="{stage}"}}' in text
    assert 'pconv_engine{backend="onnxruntime",device="cpu",model="tiny"' in text
    assert 'pconv_queue_length{model="tiny"} 0.0' in text
    assert "pconv_in_flight 1.0" in text  # this one
    assert "process_resident_memory_bytes" in text
