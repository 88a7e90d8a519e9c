import multiprocessing
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pconv_deploy.errors import HoleMaskError, InputError, TrainingError
from pconv_deploy.training.config import TrainingConfig
from pconv_deploy.training.loading import batches
from pconv_deploy.training.samples import (
    HoleSource,
    Sample,
    Samples,
    StepSampler,
    loader,
    validation_batch,
)

Make = Callable[..., TrainingConfig]


def samples_of(config: TrainingConfig) -> Samples:
    return Samples(config.data, config.holes, config.seed)


def same(first: Sequence[Sample], second: Sequence[Sample]) -> bool:
    return all(
        torch.equal(a["image"], b["image"]) and torch.equal(a["known"], b["known"])
        for a, b in zip(first, second, strict=True)
    )


def test_a_number_always_gives_the_same_sample(small: Make) -> None:
    numbers = [0, 7, 100, 3]
    first, again = ([samples_of(small())[k] for k in numbers] for _ in range(2))
    assert same(first, again)
    assert not same(first, [samples_of(small("seed=1"))[k] for k in numbers])
    for sample in first:
        assert sample["image"].shape == (3, 16, 16)
        assert sample["image"].dtype == torch.uint8
        assert sample["known"].shape == (1, 16, 16)
        assert 0 < int(sample["known"].sum()) < 256


@pytest.mark.parametrize(("workers", "ranks", "parts"), [(0, 1, 1), (0, 2, 2), (2, 2, 2)])
def test_workers_ranks_and_resuming_do_not_change_the_order(
    small: Make, workers: int, ranks: int, parts: int
) -> None:
    config = small(f"data.workers={workers}", f"micro_batches={parts}")
    samples = samples_of(config)
    expected = [samples[k]["image"] for k in range(3 * config.batch, 5 * config.batch)]
    seen = []
    iterators = [
        iter(loader(samples, StepSampler(config, 3, rank, ranks), pin_memory=False))
        for rank in range(ranks)
    ]
    for _ in range(2):
        for iterator in iterators:
            for _ in range(parts):
                seen.extend(next(iterator)["image"])
    assert len(seen) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_unreadable_pictures_are_skipped_and_counted(small: Make) -> None:
    samples = samples_of(small())
    skipped = [samples[k]["skipped"] for k in range(6)]  # one epoch: one of six is damaged
    assert sorted(skipped) == [0, 0, 0, 0, 0, 1]
    assert all(sample["failure"] == "" for sample in (samples[k] for k in range(6)))


def test_many_unreadable_pictures_in_a_row_end_it(small: Make, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"not a picture")
    samples = samples_of(small(f"data.photos={tmp_path}"))
    failure = samples[0]["failure"]
    assert failure.startswith("50 images in a row cannot be read; the first: ")
    batch = next(iter(loader(samples, StepSampler(small(), 0, 0, 1), pin_memory=False)))
    assert batch["failure"] == failure


def test_all_six_classes_of_holes_are_drawn(small: Make) -> None:
    source = HoleSource(small().holes, 64)
    rng = np.random.default_rng(0)
    shares = [source.draw(rng).mean() for _ in range(60)]
    counts, _ = np.histogram(shares, [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert counts.sum() == 60
    assert counts.min() >= 3


def test_holes_from_files_are_turned_scaled_and_grown(small: Make, tmp_path: Path) -> None:
    hole = np.zeros((32, 32), np.uint8)
    hole[2:6, 2:10] = 255
    Image.fromarray(hole).save(tmp_path / "a.png")
    source = HoleSource(small(f"holes.folder={tmp_path}", "holes.dilate=3").holes, 16)
    rng = np.random.default_rng(0)
    drawn = [source.draw(rng) for _ in range(40)]
    assert {h.shape for h in drawn} == {(16, 16)}
    areas = {int(h.sum()) for h in drawn}
    assert min(areas) == 8  # 2 x 4 pixels after scaling, not grown
    assert max(areas) > 30
    assert len({h.tobytes() for h in drawn}) > 8


def test_empty_and_inverted_masks_are_refused(small: Make, tmp_path: Path) -> None:
    Image.new("L", (16, 16), 0).save(tmp_path / "a.png")
    source = HoleSource(small(f"holes.folder={tmp_path}").holes, 16)
    with pytest.raises(HoleMaskError, match=r"50 hole masks in a row cannot be used.* is empty"):
        source.draw(np.random.default_rng(0))
    hole = np.full((32, 32), 255, np.uint8)
    hole[2:6, 2:10] = 0
    Image.fromarray(hole).save(tmp_path / "a.png")
    with pytest.raises(HoleMaskError, match=r"Inverted\? Then --set holes.convention=hole-black"):
        HoleSource(small(f"holes.folder={tmp_path}").holes, 16)
    HoleSource(small(f"holes.folder={tmp_path}", "holes.convention=hole-black").holes, 16)


def test_masks_that_mean_nothing_sure_are_refused_at_once(small: Make, tmp_path: Path) -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[4:8, 4:8] = 3
    Image.fromarray(labels).save(tmp_path / "a.png")
    with pytest.raises(HoleMaskError, match=r"a\.png: .*labels\?.*--set .*holes\.threshold="):
        HoleSource(small(f"holes.folder={tmp_path}").holes, 16)
    source = HoleSource(small(f"holes.folder={tmp_path}", "holes.threshold=1").holes, 16)
    assert source.draw(np.random.default_rng(0)).sum() == 16


def test_validation_pictures_are_fixed(small: Make, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "held-out")
    data = small(f"data.validation={tmp_path / 'held-out'}").data
    first, again = (validation_batch(data, seed=0) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first["image"].shape == (5, 3, 16, 16)  # the damaged one is left out
    assert torch.equal(first["known"], again["known"])
    assert validation_batch(small().data, seed=0) is None
    with pytest.raises(InputError, match="its images would be trained on"):
        validation_batch(small(f"data.validation={photos}").data, seed=0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image in .* can be read"):
        validation_batch(small(f"data.validation={tmp_path / 'broken'}").data, seed=0)
    with pytest.raises(InputError, match="pass their folder with --photos"):
        samples_of(TrainingConfig())


def test_a_worker_whose_pipe_closed_before_it_ended(small: Make) -> None:
    config = small("data.workers=1")
    sampler = StepSampler(config, 0, 0, 1)

    def lose_a_worker() -> None:
        with batches(samples_of(config), sampler, pin_memory=False) as running:
            next(running)
            (worker,) = multiprocessing.active_children()
            threading.Timer(0.5, worker.kill).start()
            raise EOFError

    with pytest.raises(TrainingError, match="a worker process that reads pictures ended with -9"):
        lose_a_worker()
