"""Training images from folders of common data sets or from tar shards.

Every source is a list with random access, so that the order of training depends on the seed only,
not on the number of processes. Shards are indexed once by their member headers; images are then
read by offset.
"""

import logging
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.errors import ImageError, InputError
from pconv_deploy.images.arrays import to_pixels, to_rgb8
from pconv_deploy.images.file_types import READ_SUFFIXES, UNREAD_SUFFIXES, suffix_of
from pconv_deploy.images.files import read_image
from pconv_deploy.images.listing import list_pictures

_LOG = logging.getLogger(__name__)
# Larger images count as unreadable: 100 megapixels, 300 MB decoded.
_MAX_PIXELS = 100_000_000
# Folders of training images in the unpacked data sets; the first that exists is used.
_LAYOUTS = {
    "folder": (".",),
    "imagenet": ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "train"),
    "places2": (
        "data_large_standard",
        "data_large",
        "data_256_standard",
        "data_256",
        "train_large_places365challenge",
        "train_large_places365standard",
        "train",
    ),
    "celeba-hq": ("CelebA-HQ-img", "data1024x1024", "celeba_hq/train", "train"),
}
_MAX_SHARDS = 100_000
# Shards that are shuffled together and read at the same time.
_SHARDS_TOGETHER = 8


class PictureSource(Protocol):
    """Numbered images; `groups` are ranges of numbers that are fast to read together."""

    @property
    def groups(self) -> Sequence[range]: ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> Image.Image:
        """Decode one image as RGB. Raises ImageError."""
        ...


@dataclass(frozen=True)
class PictureFolder:
    """Image files of a folder and its subfolders, sorted by path.

    names  relative to the folder, (n,) bytes: one buffer, which processes can share
    """

    root: Path
    names: NDArray[np.bytes_]

    @property
    def groups(self) -> Sequence[range]:
        return (range(len(self.names)),)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> Image.Image:
        path = self.root / os.fsdecode(bytes(self.names[number]))
        return _rgb(read_image(path, _MAX_PIXELS))


@dataclass(frozen=True)
class Shards:
    """Tar files in WebDataset's format, on local or mounted disks.

    shard, offset, size  of each image, (n,)
    """

    paths: tuple[Path, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    @property
    def groups(self) -> Sequence[range]:
        ends = np.searchsorted(self.shard, np.arange(len(self.paths)), side="right").tolist()
        return tuple(range(a, b) for a, b in zip([0, *ends], ends, strict=False) if b > a)

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, number: int) -> Image.Image:
        path = self.paths[self.shard[number]]
        try:
            with path.open("rb") as stream:
                stream.seek(int(self.offset[number]))
                content = stream.read(int(self.size[number]))
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        name = path / f"at byte {self.offset[number]}"
        return _rgb(read_image(name, _MAX_PIXELS, content=content))


def open_pictures(photos: str | Path, layout: str = "folder") -> PictureSource:
    """Find the training images of a data set.

    Args:
        photos: folder; for `webdataset` a tar file, a folder of them, or a pattern such as
            `/disk{0..3}/train-{000..099}.tar`.
        layout: folder, imagenet, places2, celeba-hq or webdataset.

    Raises:
        InputError: missing, another layout, or no images.
    """
    if layout == "webdataset":
        return _index_shards(_shard_paths(str(photos)))
    root = Path(photos)
    if not root.is_dir():
        raise InputError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}")
    places = _LAYOUTS[layout]
    folder = next((root / place for place in places if (root / place).is_dir()), None)
    if folder is None:
        raise InputError(
            f"{root} does not have the layout {layout}: needed one of {', '.join(places)} in it"
        )
    listed = list_pictures(folder)
    listed.require_some()
    listed.warn()
    return PictureFolder(folder, np.array(sorted(map(os.fsencode, listed.names))))


def epoch_order(source: PictureSource, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return all image numbers, shuffled by seed and epoch only.

    Groups are shuffled, then the images of every few groups together: all ranks and workers read
    the same few shards at the same time.
    """
    rng = np.random.default_rng([seed, epoch])
    runs = source.groups
    groups = [runs[i] for i in rng.permutation(len(runs))]
    order = []
    for start in range(0, len(groups), _SHARDS_TOGETHER):
        numbers = np.concatenate(
            [np.arange(g.start, g.stop) for g in groups[start:][:_SHARDS_TOGETHER]]
        )
        order.append(rng.permutation(numbers))
    return np.concatenate(order)


def _rgb(picture: Image.Image) -> Image.Image:
    return Image.fromarray(to_rgb8(to_pixels(picture)))


def _shard_paths(pattern: str) -> list[Path]:
    place = Path(pattern)
    if place.is_dir():
        paths = sorted(place.rglob("*.tar"))
        packed = sorted(path for end in ("tar.*", "tgz") for path in place.rglob(f"*.{end}"))
        compressed = (
            f"{len(packed)} compressed shards, such as {next(iter(packed), None)}: unpack them"
        )
        if not paths:
            raise InputError(
                f"{place} holds no shards (*.tar){f'; found {compressed}' if packed else ''}"
            )
        if packed:
            _LOG.warning("skipped %s", compressed)
        return paths
    paths = [Path(name) for name in _expand_braces(pattern)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(paths)} shards do not exist, first {missing[0]}")
    return paths


def _expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}.tar` -> a-00.tar, a-01.tar, a-02.tar; `{x,y}` -> x, y."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        choices = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < _MAX_SHARDS:
            raise InputError(
                f"{pattern} counts from {first} to {last}; needed 1 to {_MAX_SHARDS} shards"
            )
        choices = [str(n).zfill(len(match[1])) for n in range(first, last + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    ends = _expand_braces(after)
    if len(choices) * len(ends) > _MAX_SHARDS:
        raise InputError(
            f"{pattern} names {len(choices) * len(ends)} shards; allowed: {_MAX_SHARDS}"
        )
    return sorted(before + choice + end for end in ends for choice in choices)


def _index_shards(paths: Sequence[Path]) -> Shards:
    found: list[tuple[int, int, int]] = []
    unread: list[str] = []
    for number, path in enumerate(paths):
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    if member.isreg() and suffix_of(member.name) in READ_SUFFIXES:
                        found.append((number, member.offset_data, member.size))
                    elif suffix_of(member.name) in UNREAD_SUFFIXES:
                        unread.append(f"{member.name} in {path}")
                if any(shard.fileobj.read(512)):  # no end-of-archive zeros: tarfile stopped early
                    raise tarfile.ReadError(f"damaged at byte {shard.offset}")
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{path} is not a complete, uncompressed tar file: {error}") from error
    if not found:
        raise InputError(f"{paths[0].parent}: no images in {len(paths)} shards")
    if unread:
        _LOG.warning("skipped %d images of unsupported formats, such as %s", len(unread), unread[0])
    shard, offset, size = np.array(found, np.int64).T
    return Shards(tuple(paths), shard.astype(np.int32), offset, size)
