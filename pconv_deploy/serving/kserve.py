"""KServe's inference protocol, version 2, over HTTP: requests read with suspicion, answers written.

https://github.com/kserve/open-inference-protocol, with the binary tensor extension: a JSON head,
and behind it the bytes of the tensors, in the order in which the head names them.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.serving.errors import RequestError

MAX_IMAGES: Final = 128  # of one request
HEAD_LENGTH: Final = "Inference-Header-Content-Length"
_MAX_JSON: Final = 8 << 20  # of a head: its numbers take several times as much once they are read
_LENGTH: Final = 4  # bytes before each element of a BYTES tensor
_MAX_JSON_VALUES: Final = _MAX_JSON // 4  # of an answer in JSON; "255," is four bytes
# Of Triton's clients: for its scheduler, and without effect on the answer.
_HINTS: Final = ("priority", "timeout")

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Parameters = dict[str, str | int | float | bool | None]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _Parameters = {}
    # Read only once it is known what it has to be: a list of anything may take any memory.
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Head(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: _Parameters = {}
    outputs: list[_Output] = []


@dataclass(frozen=True)
class InferRequest:
    """What a request asks for; either `tensors` or `files` has its images.

    id          the client's own
    parameters  of the request, less those of the protocol
    binary      the answer's tensor comes behind its head
    tensors     image (N, H, W, 3) and hole mask (N, H, W), uint8, nonzero = to be filled
    files       of each image and hole mask
    """

    id: str
    parameters: Mapping[str, Any]
    binary: bool
    tensors: tuple[Bytes, Bytes] | None = None
    files: Sequence[tuple[bytes, bytes]] = ()


def read_request(body: bytes, head_length: str | None) -> InferRequest:
    """Read a request's body.

    Args:
        body: of the request.
        head_length: its header of the name `HEAD_LENGTH`; None: all of it is JSON.

    Raises:
        RequestError: 400, anything that is not as the protocol and our metadata have it.
    """
    head, rest = _split(body, head_length)
    contents = _contents(head.inputs, rest)
    if sorted(contents) != [HOLE_MASK, IMAGE]:
        raise _wrong("inputs", ", ".join(contents), f"{IMAGE} and {HOLE_MASK}")
    if [output.name for output in head.outputs] not in ([], [FILLED]):
        raise _wrong("outputs", ", ".join(output.name for output in head.outputs), FILLED)
    for hint in _HINTS:
        head.parameters.pop(hint, None)
    binary = _wants_binary(head)
    image, hole_mask = (_elements(*contents[name]) for name in (IMAGE, HOLE_MASK))
    if isinstance(image, list) and isinstance(hole_mask, list):
        if len(image) != len(hole_mask):
            raise _wrong(f"files of {HOLE_MASK}", len(hole_mask), f"{len(image)}, as of {IMAGE}")
        files = list(zip(image, hole_mask, strict=True))
        return InferRequest(head.id, head.parameters, binary, files=files)
    if isinstance(image, list) or isinstance(hole_mask, list):
        raise RequestError(400, f"found one of {IMAGE} and {HOLE_MASK} as files; needed both")
    if image.shape[3] != 3 or image.shape[:3] != hole_mask.shape:
        found = f"{IMAGE} {list(image.shape)} and {HOLE_MASK} {list(hole_mask.shape)}"
        raise _wrong("shapes", found, "(N, H, W, 3) and (N, H, W) of the same N, H and W")
    if not binary and image.size > _MAX_JSON_VALUES:
        raise RequestError(
            400,
            f"found {image.size} numbers to be answered in JSON, needed at most "
            f"{_MAX_JSON_VALUES}: ask for binary_data",
        )
    return InferRequest(head.id, head.parameters, binary, tensors=(image, hole_mask))


def write_answer(
    model: str, request_id: str, filled: Bytes | Sequence[bytes], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Write the answer to a request.

    Args:
        model: name of the engine.
        request_id: of the request.
        filled: (N, H, W, 3) uint8, or N picture files.
        binary: behind the head, or in it: numbers, or files in base64.

    Returns:
        The body, and its headers.
    """
    output: dict[str, Any] = {"name": FILLED}
    if isinstance(filled, np.ndarray):
        output |= {"datatype": "UINT8", "shape": list(filled.shape)}
        content = filled.tobytes() if binary else b""
        in_head: Any = filled.reshape(-1).tolist() if not binary else None
    else:
        output |= {"datatype": "BYTES", "shape": [len(filled)]}
        content = b"".join(len(file).to_bytes(_LENGTH, "little") + file for file in filled)
        in_head = [base64.b64encode(file).decode("ascii") for file in filled]
    output |= {"parameters": {"binary_data_size": len(content)}} if binary else {"data": in_head}
    head = msgspec.json.encode(
        {"model_name": model, "model_version": "1", "outputs": [output]}
        | ({"id": request_id} if request_id else {})
    )
    if not binary:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEAD_LENGTH: str(len(head))}
    return head + content, headers


def _split(body: bytes, head_length: str | None) -> tuple[_Head, memoryview]:
    length = len(body)
    if head_length is not None:
        known = head_length.isascii() and head_length.isdigit() and len(head_length) < 12
        if not known or int(head_length) > len(body):
            raise _wrong(f"header {HEAD_LENGTH}", head_length, f"at most {len(body)}, the body's")
        length = int(head_length)
    if length > _MAX_JSON:
        raise RequestError(
            400, f"found {length} bytes of JSON, needed at most {_MAX_JSON}: send tensors binary"
        )
    try:
        head = msgspec.json.decode(body[:length], type=_Head)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the request's JSON cannot be used: {error}") from error
    return head, memoryview(body)[length:]


def _wants_binary(head: _Head) -> bool:
    """Whether the answer's tensor comes behind its head; the output's own word counts."""
    binary = head.parameters.pop("binary_data_output", False)
    for output in head.outputs:
        binary = output.parameters.pop("binary_data", binary)
        if output.parameters:
            raise _wrong("parameters of the output", ", ".join(output.parameters), "binary_data")
    if not isinstance(binary, bool):
        raise _wrong("binary_data", binary, "true or false")
    return binary


def _contents(
    inputs: Sequence[_Input], rest: memoryview
) -> dict[str, tuple[_Input, memoryview | None]]:
    """Give each input the bytes behind the head that are its own, if they are there."""
    contents: dict[str, tuple[_Input, memoryview | None]] = {}
    for one in inputs:
        if one.name in contents:
            raise RequestError(400, f"found two inputs of the name {one.name[:80]!r}")
        size = one.parameters.get("binary_data_size")
        if size is None:
            contents[one.name] = (one, None)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise _wrong(
                f"binary_data_size of {one.name[:80]!r}", size, f"0 to {len(rest)}, what is there"
            )
        contents[one.name] = (one, rest[:size])
        rest = rest[size:]
    if rest:
        raise RequestError(400, f"found {len(rest)} bytes more than the inputs say")
    return contents


def _elements(one: _Input, content: memoryview | None) -> Bytes | list[bytes]:
    if (len(bytes(one.data)) == 0) == (content is None):
        raise RequestError(400, f"{one.name} needs either data or binary_data_size")
    ranks = {"UINT8": 4 if one.name == IMAGE else 3, "BYTES": None}
    if one.datatype not in ranks:
        raise _wrong(f"datatype of {one.name}", one.datatype, "UINT8 or BYTES")
    if not one.shape or len(one.shape) > 4 or not all(0 < side < 1 << 31 for side in one.shape):
        raise _wrong(f"shape of {one.name}", one.shape[:5], "one to four sides from 1")
    if not one.shape[0] <= MAX_IMAGES:
        raise _wrong(f"images of {one.name}", one.shape[0], f"at most {MAX_IMAGES}")
    if one.datatype == "BYTES":
        return _files(one, content)
    if len(one.shape) != ranks["UINT8"]:
        needed = "(N, H, W, 3)" if one.name == IMAGE else "(N, H, W)"
        raise _wrong(f"shape of {one.name}", one.shape, needed)
    if content is None:
        values = np.array(_flat(one, list[_Byte], "whole numbers from 0 to 255"), np.uint8)
    else:
        values = np.frombuffer(content, np.uint8)
    if values.size != math.prod(one.shape):
        raise _wrong(f"elements of {one.name}", values.size, f"{math.prod(one.shape)} by its shape")
    return values.reshape(one.shape)


def _flat(one: _Input, kind: Any, needed: str) -> Any:
    """Read a list of `kind` from data that may be nested: its shape says where a row ends."""
    elements = bytes(one.data).translate(None, b"[] \t\r\n")
    try:
        return msgspec.json.decode(b"[" + elements + b"]", type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RequestError(400, f"the data of {one.name} needs {needed}: {error}") from error


def _files(one: _Input, content: memoryview | None) -> list[bytes]:
    count = math.prod(one.shape)
    if count != one.shape[0]:
        raise _wrong(f"shape of {one.name}", one.shape, "(N) or (N, 1)")
    files: list[bytes] = (
        _flat(one, list[bytes], "files in base64")
        if content is None
        else _lengths_read(one, content)
    )
    if len(files) != count:
        raise _wrong(f"files of {one.name}", len(files), f"{count} by its shape")
    return files


def _lengths_read(one: _Input, content: memoryview) -> list[bytes]:
    files = []
    while content:
        size = int.from_bytes(content[:_LENGTH], "little")
        if len(content) < _LENGTH + size:
            raise RequestError(400, f"the last file of {one.name} is cut off")
        files.append(bytes(content[_LENGTH : _LENGTH + size]))
        content = content[_LENGTH + size :]
        if len(files) > MAX_IMAGES:
            break
    return files


def _wrong(what: str, found: object, needed: str) -> RequestError:
    return RequestError(400, f"{what}: found {str(found)[:200] or 'none'}; needed {needed}")
