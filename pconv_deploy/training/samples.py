"""Training samples: image, crop and hole number k of a run, determined by the seed.

A run is one sequence of samples. Step s takes samples s * batch to (s + 1) * batch - 1, split over
the ranks; image, crop and hole depend on k and the seed only. So the number of workers and ranks
does not change the samples, and a run resumes at any step.
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

# This many unreadable images or unusable masks in a row are an error.
_MAX_UNUSABLE = 50
_HOW_TO_SET = ". For training, set --set holes.convention= and holes.threshold="
# Seeded with the sample number too; keeps random numbers of training and validation apart.
_SAMPLE_STREAM, _VALIDATION_STREAM = 1, 2
_MOST_VALIDATION = 64  # images


class Sample(TypedDict):
    """One image with its hole.

    image    (3, size, size) uint8, RGB
    known    (1, size, size) bool
    skipped  number of unreadable images skipped before this one
    failure  why there is no image; empty if there is one
    """

    image: Tensor
    known: Tensor
    skipped: int
    failure: str


class Batch(Sample):
    """Stacked `Sample`s: image (N, 3, size, size), known (N, 1, size, size)."""


class HoleSource:
    """Holes of (size, size): drawn, or read from files and randomly rotated and mirrored."""

    def __init__(self, config: HolesConfig, size: int) -> None:
        self.config, self.size = config, size
        self.rule = MaskRule(config.convention, config.threshold)
        self.paths: tuple[Path, ...] = ()
        if config.folder is not None:
            masks = read_mask_set(Path(config.folder), self.rule, classify=False)
            self.paths = tuple(mask.path for mask in masks)
            self._check_polarity(config.folder)

    def draw(self, rng: np.random.Generator) -> Hole:
        """Return one hole, (size, size), neither empty nor full.

        Raises:
            HoleMaskError: the folder's masks are empty, full or unreadable, many in a row.
        """
        if not self.paths:
            bucket = AREA_BUCKETS[rng.integers(len(AREA_BUCKETS))]
            return drawn_hole(rng, self.size, self.size, bucket)
        reason = ""
        for _ in range(_MAX_UNUSABLE):
            path = self.paths[rng.integers(len(self.paths))]
            try:
                hole = self._augmented(read_hole_mask(path, self.rule), rng)
            except HoleMaskError as error:
                reason = str(error)
                continue
            if hole.any() and not hole.all():
                return hole
            reason = f"{path} is {'full' if hole.any() else 'empty'}: wrong convention?"
        raise HoleMaskError(
            f"{_MAX_UNUSABLE} hole masks in a row cannot be used; the last: {reason}{_HOW_TO_SET}"
        )

    def _check_polarity(self, folder: str) -> None:
        """Check a few masks of the folder: training would accept inverted ones silently."""
        shares, last_error = [], None
        for path in self.paths[:: max(1, len(self.paths) // _MAX_UNUSABLE)]:
            try:
                shares.append(float(read_hole_mask(path, self.rule).mean()))
            except HoleMaskError as error:
                last_error = error
        if not shares:
            raise HoleMaskError(
                f"no mask in {folder} can be used; one of them: {last_error}{_HOW_TO_SET}"
            )
        if inverted(shares):
            raise HoleMaskError(
                f"{folder}: with {self.config.convention} most of each mask is hole. Inverted? "
                "Then --set holes.convention=hole-black (NVIDIA's training set is stored so)"
            )

    def _augmented(self, hole: Hole, rng: np.random.Generator) -> Hole:
        hole = np.rot90(hole, int(rng.integers(4)))
        hole = hole[:, ::-1] if rng.random() < 0.5 else hole
        hole = resized_hole(np.ascontiguousarray(hole), (self.size, self.size))
        return dilated(hole, int(rng.integers(self.config.dilate + 1)))


class Samples(Dataset[Sample]):
    """Sample number k of a run."""

    def __init__(self, data: DataConfig, holes: HolesConfig, seed: int) -> None:
        if not data.photos:
            raise InputError("no training images: pass their folder with --photos")
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
        except InputError as error:  # worker processes would change the exception
            return Sample(image=torch.empty(0), known=torch.empty(0), skipped=0, failure=str(error))
        return as_sample(image, hole, skipped)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            # Keep only the neighbouring epoch: a batch may cross the boundary.
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = epoch_order(self.pictures, self.seed, epoch)
        return self._orders[epoch]

    def _picture(self, k: int) -> tuple[Image.Image, int]:
        """Return image k, or the next readable one, and the number of images skipped."""
        count = len(self.pictures)
        first = ""
        for skipped in range(_MAX_UNUSABLE):
            epoch, position = divmod(k + skipped, count)
            try:
                return self.pictures.read(int(self._order(epoch)[position])), skipped
            except ImageError as error:
                first = first or str(error)
        raise InputError(f"{_MAX_UNUSABLE} images in a row cannot be read; the first: {first}")


class StepSampler(Sampler[list[int]]):
    """Sample numbers of one rank from a step on, one list per micro-batch."""

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
    """Return a loader of the batches of one rank, in order."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=samples.data.workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_exit_if_a_batch_is_lost,
    )


def _exit_if_a_batch_is_lost(_worker: int) -> None:
    """Exit if a batch cannot be sent (shared memory full); the parent would wait forever."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        lambda _error, _batch: os._exit(1)
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; one failed sample fails the batch."""
    failure = next((sample["failure"] for sample in samples if sample["failure"]), "")
    return Batch(
        image=torch.empty(0) if failure else torch.stack([s["image"] for s in samples]),
        known=torch.empty(0) if failure else torch.stack([s["known"] for s in samples]),
        skipped=sum(s["skipped"] for s in samples),
        failure=failure,
    )


def augmented(picture: Image.Image, data: DataConfig, rng: np.random.Generator) -> Image.Image:
    """Crop a random square, scale it to (size, size) and mirror it at random."""
    side = max(1, round(min(picture.size) * rng.uniform(*data.crop)))
    left = int(rng.integers(picture.width - side + 1))
    top = int(rng.integers(picture.height - side + 1))
    flip = data.flip and rng.random() < 0.5
    square = _cropped(picture, (left, top, left + side, top + side), data.size)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else square


def as_sample(image: Image.Image, hole: Hole, skipped: int = 0) -> Sample:
    """Convert image and hole (H, W) to tensors."""
    pixels = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()
    return Sample(image=pixels, known=torch.from_numpy(~hole)[None], skipped=skipped, failure="")


def validation_batch(data: DataConfig, seed: int) -> Batch | None:
    """Return up to 64 validation images, cropped to their centre square, with drawn holes.

    Raises:
        InputError: no image of the folder can be read, or the folder lies in the training set.
    """
    if not data.validation:
        return None
    if data.photos and Path(data.validation).resolve().is_relative_to(Path(data.photos).resolve()):
        raise InputError(f"{data.validation} lies in {data.photos}: its images would be trained on")
    pictures = open_pictures(data.validation)
    holes = HoleSource(HolesConfig(), data.size)
    samples = []
    for number in range(min(_MOST_VALIDATION, len(pictures))):
        rng = np.random.default_rng([seed, _VALIDATION_STREAM, number])
        try:
            picture = pictures.read(number)
        except ImageError:
            continue
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        centre = _cropped(picture, (left, top, left + side, top + side), data.size)
        samples.append(as_sample(centre, holes.draw(rng)))
    if not samples:
        raise InputError(f"no image in {data.validation} can be read")
    return collate(samples)


def _cropped(picture: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3)
