"""A photo filled by one request: what `infer` would write, with the options of `infer`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.commands.infer import FillOptions, fill_jobs
from pconv_deploy.commands.jobs import Job
from pconv_deploy.images.hole_rule import MaskRule
from pconv_deploy.images.writing import Encoding
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.fill_fields import read_fields
from tests.serving.live import BOUNDARY, ask, encoded, fill, form

Photo = Callable[..., NDArray[np.uint8]]
Address = tuple[str, int]
FILL = "/v1/models/tiny/fill"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def as_infer_writes(
    inpainter: Inpainter, folder: Path, files: tuple[str, bytes, str, bytes], **options: Any
) -> bytes:
    image, hole_mask, output = folder / files[0], folder / files[2], folder / "out" / files[0]
    image.write_bytes(files[1])
    hole_mask.write_bytes(files[3])
    (outcome,) = fill_jobs(inpainter, [Job(image, hole_mask, output)], FillOptions(**options))
    if outcome.error:
        raise outcome.error
    return output.read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_answer_is_the_file_that_infer_writes(
    kind: str, address: Address, inpainter: Inpainter, photo: Photo, box: Photo, tmp_path: Path
) -> None:
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    image, hole_mask = encoded(photo(), kind), encoded(box())
    answer = fill(address, image, hole_mask, names=(f"photo{suffix}", "hole.png"))
    files = (f"photo{suffix}", image, "hole.png", hole_mask)
    assert answer.status == 200
    assert answer.body == as_infer_writes(inpainter, tmp_path, files)
    types = {"JPEG": "image/jpeg", "TIFF": "image/tiff"}
    assert answer.headers["content-type"] == types.get(kind, f"image/{kind.lower()}")
    assert f"photo-filled{suffix}" in answer.headers["content-disposition"]


def test_what_the_headers_tell(address: Address, photo: Photo, box: Photo) -> None:
    answer = fill(address, encoded(photo()), encoded(box()))
    assert float(answer.headers["x-hole-share"]) == pytest.approx((box() > 0).mean(), abs=1e-6)
    stages = [
        float(answer.headers[f"x-{stage}-ms"])
        for stage in ("queue", "decode", "pre", "infer", "post", "encode")
    ]
    assert min(stages) >= 0
    assert float(answer.headers["x-infer-ms"]) > 0
    assert float(answer.headers["x-total-ms"]) == pytest.approx(sum(stages), abs=0.1)
    assert answer.headers["x-batch-size"] == "1"


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"dilate": "3"}, {"dilate": 3}),
        ({"mask_convention": "hole-black"}, {"mask_rule": MaskRule("hole-black")}),
        ({"quality": "30"}, {"encoding": Encoding(quality=30)}),
        ({"fit_masks": "true"}, {"fit_masks": True}),
    ],
)
def test_the_options_of_infer(
    fields: dict[str, Any],
    options: dict[str, Any],
    address: Address,
    inpainter: Inpainter,
    photo: Photo,
    box: Photo,
    tmp_path: Path,
) -> None:
    size = (20, 28) if "fit_masks" in fields else (40, 56)
    files = ("photo.jpg", encoded(photo(), "JPEG"), "hole.png", encoded(box(*size)))
    answer = fill(address, files[1], files[3], names=("photo.jpg", "hole.png"), **fields)
    assert answer.body == as_infer_writes(inpainter, tmp_path, files, **options)


def test_another_format_keeps_every_known_pixel(address: Address, photo: Photo, box: Photo) -> None:
    answer = fill(address, encoded(photo()), encoded(box()), format="webp")
    assert answer.headers["content-type"] == "image/webp"
    known = box() == 0
    assert np.array_equal(answer.pixels[known], photo()[known])


def test_a_mask_over_the_photo_as_viewers_show_it(
    address: Address, photo: Photo, box: Photo
) -> None:
    """EXIF orientation 6: stored lying, shown upright."""
    picture, stream = Image.fromarray(photo()), io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(stream, "PNG", exif=exif)
    upright = encoded(np.rot90(box(), -1))
    answer = fill(address, stream.getvalue(), upright)
    plain = fill(address, encoded(photo()), encoded(box()))
    assert np.array_equal(answer.pixels, plain.pixels)


def test_an_empty_mask_converts_a_photo(address: Address, photo: Photo) -> None:
    """What the page uses for formats that a browser does not show, and for downloads."""
    image = encoded(photo(), "TIFF")
    empty = encoded(np.zeros((1, 1), np.uint8))
    answer = fill(address, image, empty, format="png", fit_masks="1")
    assert np.array_equal(answer.pixels, photo())
    assert answer.headers["x-batch-size"] == "0"
    assert "has no hole" in unquote(answer.headers["x-note"])


REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no picture": (422, "is no image that can be read", {"image": b"text"}),
    "an empty file": (422, "photo.png is empty", {"image": b""}),
    "half a picture": (422, "photo.png is damaged", {"image": slice(0, 700)}),
    "no mask": (422, "hole.png is no image that can be read", {"hole_mask": b"text"}),
    "a mask of another size": (422, "needed the same size", {"hole_mask": (4, 5)}),
    "too many pixels": (413, "megapixels; at most", {"image": (100, 101)}),
    "a long and narrow one": (  # 9,000 pixels, and 48,000 when padded
        413,
        "padded for the network 3008x16",
        {"image": (3, 3000), "hole_mask": (3, 3000)},
    ),
    "everything is hole": (
        422,
        "nothing is known to fill it from",
        {"hole_mask": encoded(np.full((40, 56), 255, np.uint8))},
    ),
    "an unknown field": (400, "found a field 'dilat'", {"dilat": "3"}),
    "no number": (400, "found dilate='three'; needed 0 to 200", {"dilate": "three"}),
    "too large a number": (400, "needed 1 to 100", {"quality": "101"}),
    "no truth value": (400, "needed true or false", {"opaque": "perhaps"}),
    "no format": (400, "needed one of png", {"format": "gif"}),
    "no region": (400, "needed one of auto, exact, crop", {"region": "all"}),
    "an unknown engine": (404, "found no engine 'other'; there are tiny", {"model": "other"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, small: Address, photo: Photo, box: Photo) -> None:
    status, message, changes = REFUSED[case]
    arguments: dict[str, Any] = {"image": encoded(photo()), "hole_mask": encoded(box())}
    for name, change in changes.items():
        if isinstance(change, slice):
            change = arguments[name][change]
        elif isinstance(change, tuple):
            change = encoded(np.zeros(change, np.uint8))
        arguments[name] = change
    answer = fill(small, **arguments)
    assert answer.status == status
    assert message in answer.json["error"]


FORM = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="dilate"\r\n\r\n%s\r\n'
MALFORMED: dict[str, tuple[int, str, str, bytes]] = {
    "another type": (415, "needed multipart/form-data", "application/json", b"{}"),
    "no boundary": (400, "malformed", "multipart/form-data", b"x"),
    "no parts": (400, "malformed", FORM, b"rubbish"),
    "one file": (400, "found as files: image; needed image and mask", FORM, FILE + b"--b--\r\n"),
    "three files": (400, "Too many files", FORM, FILE * 3 + b"--b--\r\n"),
    "a field twice": (400, "found 'dilate' twice", FORM, FIELD % b"1" * 2 + b"--b--\r\n"),
    "a long field": (400, "Part exceeded", FORM, FIELD % (b"1" * 5000) + b"--b--\r\n"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, small: Address) -> None:
    status, message, kind, body = MALFORMED[case]
    answer = ask(small, FILL, body, {"Content-Type": kind})
    assert (answer.status, message in answer.json["error"]) == (status, True), answer.json


def test_a_form_that_is_cut_off(small: Address, photo: Photo, box: Photo) -> None:
    """Wherever it is: nothing is filled without the options that were to come."""
    files = {"image": ("a.png", encoded(photo(12, 10))), "mask": ("b.png", encoded(box(12, 10)))}
    body = form(files, {"dilate": "2"})
    whole = ask(small, FILL, body.removesuffix(b"\r\n"), MULTIPART)
    assert whole.status == 200, whole  # some clients send no last line break
    for left_out in (3, 20, 30, 100, 200, 400):
        answer = ask(small, FILL, body[:-left_out], MULTIPART)
        assert (answer.status, "cut off" in answer.json["error"]) == (400, True), answer


def test_a_name_is_for_messages_alone(small: Address, box: Photo) -> None:
    """No file of the server's is looked at, whatever a client calls its own."""
    answer = fill(small, b"text", encoded(box()), names=("../../../etc/passwd", "b.png"))
    assert answer.json["error"] == "passwd is no image that can be read"


def test_addresses_that_are_none(small: Address) -> None:
    found = [ask(small, "/v2x"), ask(small, "/v1/models", b"")]
    assert [answer.status for answer in found] == [404, 405]
    assert "found nothing at GET /v2x" in found[0].json["error"]


def test_which_engines_there_are(small: Address) -> None:
    told = ask(small, "/v1/models").json
    assert [model["name"] for model in told["models"]] == ["tiny"]
    assert told["models"][0] | {"network": ""} == {
        "name": "tiny",
        "backend": "onnxruntime",
        "device": "cpu",
        "precision": "fp32",
        "network": "",
        "size_multiple": 16,
        "ready": True,
        "accepted": 0,
    }
    assert told["limits"] == {"max_megapixels": 0.01, "max_body_mib": 0.0625}
    assert told["needs_key"] is False


def test_a_body_that_is_too_long(small: Address, photo: Photo, box: Photo) -> None:
    announced = fill(small, encoded(photo()) + bytes(70_000), encoded(box()))
    assert announced.status == 413
    assert "0.0625 MiB" in announced.json["error"]
    # In chunks, with no length announced.
    body = form({"image": ("photo.png", bytes(100_000))}, {})
    chunks = (body[start : start + 20_000] for start in range(0, len(body), 20_000))
    assert ask(small, FILL, chunks, MULTIPART).status == 413


def test_a_request_chooses_a_soft_edge_and_what_the_network_sees(
    address: Address, photo: Photo
) -> None:
    hole_mask = np.zeros(photo().shape[:2], np.uint8)
    hole_mask[8:28, 10:30] = 255
    files = encoded(photo()), encoded(hole_mask)
    answers = fill(address, *files), fill(address, *files, feather="5")
    plain, soft = (np.asarray(Image.open(io.BytesIO(answer.body))) for answer in answers)
    assert (plain[8, 10:30] != soft[8, 10:30]).any()
    np.testing.assert_array_equal(soft[hole_mask == 0], photo()[hole_mask == 0])
    np.testing.assert_array_equal(soft[14:22, 16:24], plain[14:22, 16:24])
    assert read_fields({}, 1)[0].region is None
    assert read_fields({"region": "crop"}, 1)[0].region == "crop"
