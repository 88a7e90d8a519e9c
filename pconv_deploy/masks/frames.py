"""Pairs of consecutive frames of a video file or of a folder with one image per frame."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pconv_deploy.errors import InputError
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.files import read_image
from pconv_deploy.masks.reading import picture_paths

if TYPE_CHECKING:
    import cv2

_MOST_PIXELS = 50_000_000
_LEAST_SIDE = 32  # of a frame; less is no picture to find motion in
# What FFmpeg may open, as "key;value": a playlist cannot make it fetch from elsewhere.
_FFMPEG = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # silent: our error is one line
}


@dataclass(frozen=True)
class FramePair:
    """Where two frames are.

    source   a video, or the folder of the frames
    at       the number of the first frame, from 0
    step     how many frames on the second is
    paths    the two frames' own files, in a folder
    """

    source: Path
    at: int
    step: int = 1
    paths: tuple[Path, Path] | None = None


def frame_pairs(source: Path, most: int, step: int = 1) -> list[FramePair]:
    """Choose pairs of frames evenly spaced over a video; none of them overlap if there are enough.

    `source` is a video file, or a folder of pictures whose names sort by their numbers; `most` is
    the number of pairs, `step` the distance of the frames of a pair (1 is consecutive).

    Raises:
        InputError: it does not exist, is no video, or has too few frames.
    """
    if source.is_dir():
        paths = picture_paths(source)
        count = len(paths)
    else:
        paths = []
        count = _count(source)
    if count < step + 1:
        raise InputError(
            f"{source} has {count} frame{'' if count == 1 else 's'}; needed at least {step + 1}"
        )
    last = count - step - 1
    number = min(most, last // (2 * step) + 1)
    starts = [int(at) for at in np.linspace(0, last, number).round()]
    return [
        FramePair(source, at, step, (paths[at], paths[at + step]) if paths else None)
        for at in starts
    ]


def read_pair(pair: FramePair, side: int) -> tuple[Bytes, Bytes] | None:
    """Two frames as grey levels (H, W), reduced until their shorter side is at most `side`.

    Returns:
        The frames; None where a video ends earlier than it says.

    Raises:
        InputError: a frame of a folder cannot be read, they differ in size or are tiny.
    """
    if pair.paths:
        images = [read_image(path, _MOST_PIXELS).convert("RGB") for path in pair.paths]
    else:
        images = _read_frames(pair)
        if len(images) < 2:
            return None
    sizes = [image.size for image in images]
    if sizes[0] != sizes[1]:
        names = " and ".join(path.name for path in pair.paths or ())
        where = f"{pair.source} ({names})" if names else pair.source
        raise InputError(f"{where} has frames of {sizes[0]} and of {sizes[1]} pixels")
    if min(sizes[0]) < _LEAST_SIDE:
        raise InputError(
            f"{pair.source} has frames of {sizes[0][0]}x{sizes[0][1]}; needed {_LEAST_SIDE} or more"
        )
    first, second = (_reduced(image, side) for image in images)
    return first, second


def _reduced(image: Image.Image, side: int) -> Bytes:
    """Grey, the shorter side at most `side` and the longer at most four times as much."""
    width, height = image.size
    factor = min(1.0, side / min(width, height), 4 * side / max(width, height))
    smaller = (max(1, round(factor * width)), max(1, round(factor * height)))
    return np.asarray(image.convert("L").resize(smaller, Image.Resampling.BOX))


def _opened(path: Path) -> "cv2.VideoCapture":
    import cv2

    if not path.is_file():
        raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    for name, value in _FFMPEG.items():
        os.environ.setdefault(name, value)
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # By FFmpeg only: other readers take 00001.png for a sequence of pictures.
        capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    width, height = (
        capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if not capture.isOpened() or not 0 < width * height <= _MOST_PIXELS:
        raise InputError(f"{path} is no video that can be read")
    return capture


def _count(path: Path) -> int:
    import cv2

    capture = _opened(path)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if count > 1:
        return count
    count = 0  # the container does not know: count them
    while capture.grab():
        count += 1
    if not count:
        raise InputError(f"{path} is no video that can be read: it has no frame")
    return count


def _read_frames(pair: FramePair) -> list[Image.Image]:
    import cv2

    capture = _opened(pair.source)
    if pair.at:
        capture.set(cv2.CAP_PROP_POS_FRAMES, pair.at)
    frames: list[Any] = []
    for number in range(pair.step + 1):
        if not capture.grab():
            break
        if number in (0, pair.step):
            read, frame = capture.retrieve()
            if not read:
                break
            frames.append(frame)
    return [Image.fromarray(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
