"""A colour profile of CMYK, small enough to be written here."""

import struct

import numpy as np

# CIELAB of the profile's sixteen corners, as 8-bit L, a, b: white without ink, cyan ink a middle
# grey (which no plain conversion makes of it), everything else black.
_WHITE, _GREY, _BLACK = (255, 128, 128), (136, 128, 128), (0, 128, 128)
GREY = 127  # the sRGB level of _GREY


def cmyk_profile() -> bytes:
    """An ICC profile (version 2, a table of 8 bits) that takes full cyan for a middle grey."""
    corners = [_WHITE if not n else _GREY if n == 8 else _BLACK for n in range(16)]  # C is first
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(np.eye(3, dtype=int).ravel() * 65536))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp
    table += bytes(np.array(corners, np.uint8)) + 3 * ramp
    text = b"text\0\0\0\0made for tests\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"cmyk\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    tags = {b"desc": name, b"cprt": text, b"wtpt": white, b"A2B0": table}
    index, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for key, content in tags.items():
        index += key + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"test", 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body
