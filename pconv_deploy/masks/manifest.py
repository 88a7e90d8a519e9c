"""Manifest of a set of hole masks: how it was made, and the class of every file."""

from pathlib import Path
from typing import Any

import msgspec

from pconv_deploy.errors import InputError
from pconv_deploy.files import read_json_bytes

MANIFEST_NAME = "holes.json"
_FORMAT = 1


class MaskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mask file; see reading.HoleMaskFile."""

    name: str
    bucket: tuple[float, float]
    border: bool
    share: float

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise ValueError(f"{self.name!r} is no file name")


class MaskSetManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Manifest of a whole set: white is hole; `source` says how to make it again."""

    format: int = _FORMAT
    height: int
    width: int
    per_class: int
    seed: int
    source: dict[str, Any]
    files: tuple[MaskEntry, ...]


def manifest_bytes(manifest: MaskSetManifest) -> bytes:
    """Encode a manifest as JSON, one line per mask."""
    return msgspec.json.encode(manifest).replace(b'{"name"', b'\n{"name"') + b"\n"


def read_manifest(folder: Path) -> MaskSetManifest:
    """Read the manifest of a set made by `masks make`.

    Raises:
        InputError: missing, not ours or damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(read_json_bytes(path), type=MaskSetManifest)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise InputError(f"{path} is not ours or damaged: {error}") from error
    if manifest.format != _FORMAT:
        raise InputError(
            f"{path} has format {manifest.format}; this pconv-deploy reads format {_FORMAT}"
        )
    if not manifest.files:
        raise InputError(f"{path} lists no masks")
    return manifest
