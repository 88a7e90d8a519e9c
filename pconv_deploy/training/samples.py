"""What training sees: sample number k of a run, always the same for the same seed.

A run is one long sequence of samples. Step s takes samples s * batch to (s + 1) * batch, and each
rank its part of them; number k alone decides the picture, the crop and the hole. So neither the
number of workers nor of ranks changes what is seen, and a run resumes by counting on.
"""

import multiprocessing.queues
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pconv_deploy.errors import HoleMaskError, ImageError, InputError
from pconv_deploy.images.arrays import Hole, dilated, resized_hole
from pconv_deploy.images.files import read_hole_mask
from pconv_deploy.images.hole_rule import MaskRule
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.masks.reading import inverted, read_mask_set
from pconv_deploy.training.config import DataConfig, HolesConfig, TrainingConfig
from pconv_deploy.training.pictures import PictureSource, epoch_order, open_pictures

# So many unreadable pictures or unusable masks in a row, and something is wrong with the set.
_PATIENCE = 50
_SEE = ". In training, masks are read by --set holes.convention= and holes.threshold="
# Beside the seed and a number, so that crops, holes and validation draw different numbers.
_SAMPLE_STREAM, _VALIDATION_STREAM = 1, 2


class Sample(TypedDict):
    """One picture with its hole.

    image    (3, size, size) uint8, RGB
    known    (1, size, size) bool
    skipped  how many pictures could not be read before this one
    failure  empty, or why there is no picture at all
    """

    image: Tensor
    known: Tensor
    skipped: int
    failure: str


class Batch(Sample):
    """`Sample`s, stacked: image (N, 3, size, size), known (N, 1, size, size)."""


class HoleSource:
    """Holes of the wanted size: drawn, or taken from files and turned at random."""

    def __init__(self, config: HolesConfig, size: int) -> None:
        self.config, self.size = config, size
        self.rule = MaskRule(config.convention, config.threshold)
        self.paths: tuple[Path, ...] = ()
        if config.folder is not None:
            masks = read_mask_set(Path(config.folder), self.rule, classify=False)
            self.paths = tuple(mask.path for mask in masks)
            self._require_sense(config.folder)

    def draw(self, rng: np.random.Generator) -> Hole:
        """One hole, (size, size), with something in it and something around it.

        Raises:
            HoleMaskError: the folder's masks are empty, full or unreadable, many in a row.
        """
        if not self.paths:
            bucket = AREA_BUCKETS[rng.integers(len(AREA_BUCKETS))]
            return drawn_hole(rng, self.size, self.size, bucket)
        complaint = ""
        for _ in range(_PATIENCE):
            path = self.paths[rng.integers(len(self.paths))]
            try:
                hole = self._turned(read_hole_mask(path, self.rule), rng)
            except HoleMaskError as error:
                complaint = str(error)
                continue
            if hole.any() and not hole.all():
                return hole
            complaint = f"{path} is {'full' if hole.any() else 'empty'}: wrong convention?"
        raise HoleMaskError(
            f"{_PATIENCE} hole masks in a row cannot be used; the last: {complaint}{_SEE}"
        )

    def _require_sense(self, folder: str) -> None:
        """Look at a few masks of the folder: taken the wrong way round they would still train."""
        shares, complaint = [], None
        for path in self.paths[:: max(1, len(self.paths) // _PATIENCE)]:
            try:
                shares.append(float(read_hole_mask(path, self.rule).mean()))
            except HoleMaskError as error:
                complaint = error
        if not shares:
            raise HoleMaskError(f"no mask in {folder} can be used; one of them: {complaint}{_SEE}")
        if inverted(shares):
            raise HoleMaskError(
                f"{folder}: most of each mask is hole, read as {self.config.convention}. Inverted? "
                "Then --set holes.convention=hole-black (NVIDIA's training set is stored so)"
            )

    def _turned(self, hole: Hole, rng: np.random.Generator) -> Hole:
        hole = np.rot90(hole, int(rng.integers(4)))
        hole = hole[:, ::-1] if rng.random() < 0.5 else hole
        hole = resized_hole(np.ascontiguousarray(hole), (self.size, self.size))
        return dilated(hole, int(rng.integers(self.config.dilate + 1)))


class Samples(Dataset[Sample]):
    """Sample number k of a run."""

    def __init__(self, data: DataConfig, holes: HolesConfig, seed: int) -> None:
        if not data.photos:
            raise InputError("no pictures to train on: name their folder with --photos")
        self.data, self.seed = data, seed
        self.pictures: PictureSource = open_pictures(data.photos, data.layout)
        self.holes = HoleSource(holes, data.size)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, k: int) -> Sample:
        rng = np.random.default_rng([self.seed, _SAMPLE_STREAM, k])
        try:
            picture, skipped = self._picture(k)
            image = augmented(picture, self.data, rng)
            hole = self.holes.draw(rng)
        except InputError as error:  # an exception would lose its shape on the way from a worker
            return Sample(image=torch.empty(0), known=torch.empty(0), skipped=0, failure=str(error))
        return as_sample(image, hole, skipped)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            # Only the neighbour may still be wanted, by a batch across the epochs' border.
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = epoch_order(self.pictures, self.seed, epoch)
        return self._orders[epoch]

    def _picture(self, k: int) -> tuple[Image.Image, int]:
        """Picture k of the run, or the next that can be read; and how many could not."""
        count = len(self.pictures)
        first = ""
        for skipped in range(_PATIENCE):
            epoch, position = divmod(k + skipped, count)
            try:
                return self.pictures.read(int(self._order(epoch)[position])), skipped
            except ImageError as error:
                first = first or str(error)
        raise InputError(f"{_PATIENCE} pictures in a row cannot be read; the first: {first}")


class StepSampler(Sampler[list[int]]):
    """The sample numbers of one rank, a list for every micro-batch, from a step on."""

    def __init__(self, config: TrainingConfig, start: int, rank: int, ranks: int) -> None:
        self.config, self.start, self.rank, self.ranks = config, start, rank, ranks
        self.micro = config.batch // (ranks * config.micro_batches)

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.config.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.config.steps):
            first = (step * self.ranks + self.rank) * self.config.micro_batches * self.micro
            for part in range(self.config.micro_batches):
                begin = first + part * self.micro
                yield list(range(begin, begin + self.micro))


def loader(samples: Samples, sampler: StepSampler, pin_memory: bool) -> DataLoader[Sample]:
    """Batches of one rank in order."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=samples.data.workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_end_if_a_batch_is_lost,
    )


def _end_if_a_batch_is_lost(_worker: int) -> None:
    """Where shared memory is full, an error would only be printed and the parent wait for ever."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        lambda _error, _batch: os._exit(1)
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; one failure fails the batch."""
    failure = next((sample["failure"] for sample in samples if sample["failure"]), "")
    usable = [] if failure else samples
    return Batch(
        image=torch.stack([s["image"] for s in usable]) if usable else torch.empty(0),
        known=torch.stack([s["known"] for s in usable]) if usable else torch.empty(0),
        skipped=sum(s["skipped"] for s in samples),
        failure=failure,
    )


def augmented(picture: Image.Image, data: DataConfig, rng: np.random.Generator) -> Image.Image:
    """A random square of the picture, scaled to size x size, perhaps mirrored."""
    side = max(1, round(min(picture.size) * rng.uniform(*data.crop)))
    left = int(rng.integers(picture.width - side + 1))
    top = int(rng.integers(picture.height - side + 1))
    flip = data.flip and rng.random() < 0.5
    square = picture.resize(
        (data.size, data.size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
        reducing_gap=3,
    )
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else square


def as_sample(image: Image.Image, hole: Hole, skipped: int = 0) -> Sample:
    """Picture and hole as tensors."""
    pixels = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()
    return Sample(image=pixels, known=torch.from_numpy(~hole)[None], skipped=skipped, failure="")


def validation_batch(data: DataConfig, seed: int, most: int = 64) -> Batch | None:
    """Up to `most` pictures of the validation folder, their middle squares with drawn holes.

    Raises:
        InputError: there is a folder, but no picture in it can be read, or it is trained on.
    """
    if not data.validation:
        return None
    if data.photos and Path(data.validation).resolve().is_relative_to(Path(data.photos).resolve()):
        raise InputError(
            f"{data.validation} lies in {data.photos}: training would see its pictures"
        )
    pictures = open_pictures(data.validation)
    holes = HoleSource(HolesConfig(), data.size)
    samples = []
    for number in range(min(most, len(pictures))):
        rng = np.random.default_rng([seed, _VALIDATION_STREAM, number])
        try:
            picture = pictures.read(number)
        except ImageError:
            continue
        samples.append(as_sample(_middle(picture, data.size), holes.draw(rng)))
    if not samples:
        raise InputError(f"no picture in {data.validation} can be read")
    return collate(samples)


def _middle(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3)
