"""KServe's protocol, spoken by Triton's own client."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving import kserve_routes
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


@pytest.mark.parametrize(("count", "binary"), [(1, False), (3, True)])
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


def test_compressed_requests_are_refused_in_words(client: Any, photo: Photo, box: Photo) -> None:
    inputs = tensors(image=photo()[None], hole_mask=box()[None])
    with pytest.raises(triton.InferenceServerException, match="needed none"):
        client.infer("tiny", inputs, request_compression_algorithm="gzip")


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
    with pytest.raises(triton.InferenceServerException, match="nothing is known"):
        client.infer("tiny", tensors(image=photo()[None], hole_mask=np.ones((1, 40, 56), np.uint8)))
    after = client.get_inference_statistics("tiny")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert before["last_inference"] < after["last_inference"] <= time.time() * 1000
    stats, earlier = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] == earlier["success"]["count"] + 1
    assert stats["fail"]["count"] == earlier["fail"]["count"] + 1
    assert stats["compute_infer"]["ns"] > earlier["compute_infer"]["ns"]


def test_hints_for_a_scheduler_change_nothing(client: Any, photo: Photo, box: Photo) -> None:
    inputs = tensors(image=photo()[None], hole_mask=box()[None])
    plain, hinted = (
        client.infer("tiny", inputs, **hints).as_numpy("filled")
        for hints in ({}, {"timeout": 60_000_000, "priority": 1})
    )
    assert np.array_equal(plain, hinted)


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
    assert f'version="{version("pconv-deploy")}"' in text
    assert 'pconv_queue_length{model="tiny"} 0.0' in text
    assert "pconv_in_flight 1.0" in text  # this one
    assert "process_resident_memory_bytes" in text


def test_a_bug_is_counted_as_500(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_routes, "read_request", lambda *_: 1 // 0)
    assert ask(address, "/v2/models/tiny/infer", b"{}").status == 500
    text = ask(address, "/metrics").body.decode()
    assert 'pconv_requests_total{endpoint="infer",model="tiny",status="500"} 1.0' in text
