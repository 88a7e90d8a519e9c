"""Remove metadata from PNG files that Pillow would refuse to read because of it.

Pillow refuses a whole file for a compressed text or profile of more than a megabyte, and for any
metadata that is damaged. Editors and generators write such files; viewers show them.
"""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import PngImagePlugin
from PIL.Image import DecompressionBombError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that a decoder may leave out start with a small letter. These make the picture, though.
_OPTIONAL = 0x20
_OF_THE_PICTURE = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_PROFILE = b"iCCP"
_MOST_PROFILE = 32 << 20  # bytes unpacked; printers' profiles have up to a few megabytes
_MOST_FILE = 1 << 30  # bytes of a file that is taken apart in memory


def lean_png(source: Path | io.BytesIO) -> tuple[bytes, bytes | None] | None:
    """Remove from a PNG the metadata that Pillow refuses.

    Returns:
        The PNG, and its colour profile if that was removed and is not damaged; None if the file is
        no PNG or has no such metadata.

    Raises:
        DecompressionBombError: its profile unpacks to more than any profile has.
        OSError: it cannot be read.
    """
    if isinstance(source, io.BytesIO):
        source.seek(0)
        return _lean(source)
    if source.stat().st_size > _MOST_FILE:
        return None
    with source.open("rb") as stream:
        return _lean(stream)


def _lean(stream: IO[bytes]) -> tuple[bytes, bytes | None] | None:
    if stream.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    judge = PngImagePlugin.PngStream(io.BytesIO())
    kept, profile, all_kept = [_SIGNATURE], None, True
    for kind, whole in _chunks(stream):
        optional = kind[0] & _OPTIONAL and kind not in _OF_THE_PICTURE
        if not optional or _accepted(judge, kind, whole):
            kept.append(whole)
            continue
        all_kept = False
        if kind == _PROFILE:
            profile = _unpacked(whole[8:-4].partition(b"\0")[2][1:])
    return None if all_kept else (b"".join(kept), profile)


def _chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk's kind and all its bytes, from length to checksum; the last may be cut."""
    while len(start := stream.read(8)) == 8:
        yield start[4:], start + stream.read(int.from_bytes(start[:4]) + 4)


def _accepted(judge: PngImagePlugin.PngStream, kind: bytes, whole: bytes) -> bool:
    """Whether Pillow takes a chunk; it counts what all texts take together."""
    body = whole[8:-4]
    if zlib.crc32(kind + body) != int.from_bytes(whole[-4:]):
        return False
    judge.fp = io.BytesIO(body)
    try:
        judge.call(kind, 0, len(body))
    except AttributeError:  # a kind that Pillow does not know, and passes over
        return True
    # Whatever else is wrong with it: nothing of it is needed to decode the picture.
    except Exception:  # noqa: BLE001
        return False
    return True


def _unpacked(packed: bytes) -> bytes | None:
    """Unpack a profile; None if it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, _MOST_PROFILE)
    except zlib.error:
        return None
    if unpacker.unconsumed_tail:
        raise DecompressionBombError(
            f"its colour profile unpacks to more than {_MOST_PROFILE >> 20} MiB"
        )
    return profile
