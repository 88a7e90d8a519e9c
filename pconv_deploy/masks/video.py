"""Compute the occlusions of videos once and store them in a file for all workers."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.errors import InputError, OutputError
from pconv_deploy.files import writing
from pconv_deploy.images.arrays import Hole
from pconv_deploy.masks.frames import FramePair, frame_pairs, read_pair
from pconv_deploy.masks.occlusion import FlowMethod, occlusions
from pconv_deploy.processes import spawning, worker_pool

_MOST_PAIRS = 240
_MOST_SIDE = 512  # of a frame in which occlusions are looked for
# Of the frame: less is noise of the flow, more a cut between scenes.
_SHARES = (1e-4, 0.5)

_Packed = tuple[NDArray[np.uint8], int]  # bits (H, W / 8), W
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """Source of holes from occlusions in videos.

    videos       video files or folders of frames
    flow         OpenCV's optical flow
    frame_step   how far apart the two frames are that are compared
    """

    videos: tuple[Path, ...]
    flow: FlowMethod = "dis"
    frame_step: int = 1


def planned_pairs(source: VideoSource, masks: int) -> list[FramePair]:
    """Choose the frame pairs, equally many per video; at most as many as masks are to be made.

    Raises:
        InputError: a video cannot be read or is too short.
    """
    most = max(1, min(_MOST_PAIRS, masks) // len(source.videos))
    return [pair for video in source.videos for pair in frame_pairs(video, most, source.frame_step)]


def store_raw_holes(
    path: Path,
    source: VideoSource,
    pairs: Sequence[FramePair],
    side: int,
    *,
    workers: int,
    progress: Callable[[int], None],
) -> int:
    """Compute the occlusions of all pairs, write the usable ones to a file and count them.

    Frames are reduced to about `side` pixels; `progress` is called with the number of pairs done.

    Raises:
        InputError: a frame cannot be read, or nothing moves.
        OutputError: the file cannot be written.
    """
    found: list[_Packed] = []
    work = partial(_raw_holes, flow=source.flow, side=min(side, _MOST_SIDE))
    with closing(in_processes(work, pairs, workers, chunk=1)) as results:
        for done, holes in enumerate(results, start=1):
            found += holes
            progress(done)
    if not found:
        names = ", ".join(map(str, source.videos))
        raise InputError(
            f"no motion found in {names}: in {len(pairs)} pairs of frames nothing is covered or "
            "uncovered. Try another video, or --frame-step 5"
        )
    arrays = {f"{at}_{width}": bits for at, (bits, width) in enumerate(found)}
    with writing(path):
        np.savez(path, allow_pickle=False, **arrays)
    return len(found)


class RawHoles(Sequence[Hole]):
    """Holes kept as bits: hundreds of whole frames, in every process, would take gigabytes."""

    def __init__(self, packed: Sequence[_Packed]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, at: Any) -> Any:  # one hole: slices are not needed
        bits, width = self._packed[at]
        return np.unpackbits(bits, axis=1, count=width).astype(np.bool_)


@lru_cache(maxsize=1)
def stored_raw_holes(path: Path) -> RawHoles:
    """Read the file again; once in each process."""
    with np.load(path) as arrays:
        return RawHoles([(arrays[name], int(name.partition("_")[2])) for name in arrays.files])


def _raw_holes(pair: FramePair, flow: FlowMethod, side: int) -> list[_Packed]:
    frames = read_pair(pair, side)
    if frames is None:
        return []
    least, most = _SHARES
    return [
        (np.packbits(hole, axis=1), hole.shape[1])
        for hole in occlusions(*frames, flow)
        if least <= hole.mean() <= most
    ]


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int
) -> Generator[Result]:
    """Yield results in the order of the items; closing the generator cancels the rest.

    `work` is sent with every `chunk` of items, so it should be small. One worker is this process.

    Raises:
        OutputError: a process was killed.
    """
    workers = min(workers, -(-len(items) // chunk))
    if workers <= 1:
        yield from map(work, items)
        return
    try:
        with worker_pool(workers) as pool:
            with spawning():
                results = pool.map(work, items, chunksize=chunk)
            yield from results
    except BrokenProcessPool as error:
        raise OutputError(
            "a worker process ended, perhaps for lack of memory: try fewer --workers"
        ) from error
