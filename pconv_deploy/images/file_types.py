"""Recognise image files by name and first bytes."""

import mimetypes
from pathlib import PurePath
from typing import Final

# fmt: off
# Names of what Pillow reads for us; a test holds them equal to Pillow's own list.
READ_SUFFIXES: Final = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp",
    ".dib", ".gif", ".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c",
))
READ_KINDS: Final = ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "JPEG 2000")
# Of these, Pillow would read the preview as if it were the photo.
RAW_SUFFIXES: Final = frozenset((
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2",
    ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".mrw", ".dcr", ".kdc", ".mef",
    ".mos", ".rwl",
))
# Pictures all the same, and not read.
UNREAD_SUFFIXES: Final = RAW_SUFFIXES | frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".jxr", ".wdp", ".jls", ".psd", ".psb", ".xcf", ".kra",
    ".exr", ".hdr", ".pfm", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".tga", ".dds", ".ico",
    ".icns", ".cur", ".qoi", ".pcx", ".sgi", ".rgb", ".ras", ".xbm", ".xpm", ".fits", ".fit",
    ".svg", ".svgz", ".eps", ".ai", ".wmf", ".emf", ".dcm", ".flif", ".bpg", ".jng", ".mng",
))
# fmt: on
UNSUPPORTED: Final = "a picture of a kind that is not read ({}): convert it to PNG or JPEG"
FIRST_BYTES: Final = 16  # that tell all kinds apart
_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"qoif", "QOI"),
    (b"gimp xcf", "GIMP"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"IIU\0", "raw"),
    (b"IIRO", "raw"),
    (b"DDS ", "DDS"),
    (b"#?RADIANCE", "Radiance HDR"),
    *((b"P%d\n" % number, "PNM") for number in (4, 5, 6, 7)),
)
# What follows "ftyp" in the boxes of MPEG-4, most of which are films.
_BRANDS: Final = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "raw"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)
# Python's own list alone: what a machine adds to it must not change what is read.
_KNOWN_TYPES: Final = mimetypes.MimeTypes(filenames=()).types_map[True]


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name, in lower case."""
    return PurePath(name).suffix.lower()


def may_hide_a_picture(suffix: str) -> bool:
    """Whether a suffix is of no known kind, so that the first bytes have to be read."""
    return _KNOWN_TYPES.get(suffix) in (None, "application/octet-stream")


def picture_kind(start: bytes) -> str | None:
    """Return the kind of picture that starts with these bytes; None if it is not known."""
    for beginning, kind in _STARTS:
        if start.startswith(beginning):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[:2] == b"BM" and start[6:10] == bytes(4):  # two reserved fields
        return "BMP"
    return _BRANDS.get(start[8:12]) if start[4:8] == b"ftyp" else None
