from pathlib import Path

import pytest

from pconv_deploy.errors import OutputError, UsageError
from pconv_deploy.masks.mask_set import CLASSES, MaskSetOptions, make_mask_set
from pconv_deploy.masks.reading import read_mask_set

SMALL = MaskSetOptions(height=64, width=96, per_class=2, seed=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_set_however_many_workers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_mask_set(tmp_path / "one", SMALL, progress=lambda *done: seen.append(done))
    make_mask_set(tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert seen[-1] == (24, 24)


def test_the_manifest_tells_the_classes_that_the_pixels_have(tmp_path: Path) -> None:
    make_mask_set(tmp_path / "set", SMALL)
    listed = read_mask_set(tmp_path / "set")
    assert [(m.bucket, m.border) for m in listed] == [c for c in CLASSES for _ in range(2)]
    (tmp_path / "set" / "holes.json").unlink()
    assert read_mask_set(tmp_path / "set") == listed


def test_only_sets_of_ours_are_replaced(tmp_path: Path) -> None:
    make_mask_set(tmp_path / "set", SMALL)
    with pytest.raises(UsageError, match="--overwrite"):
        make_mask_set(tmp_path / "set", SMALL)
    make_mask_set(tmp_path / "set", SMALL, overwrite=True)
    with pytest.raises(UsageError, match="not ours"):
        make_mask_set(tmp_path, SMALL, overwrite=True)


def test_what_cannot_be_made(tmp_path: Path) -> None:
    for options in (MaskSetOptions(height=8), MaskSetOptions(per_class=0), MaskSetOptions(seed=-1)):
        with pytest.raises(UsageError, match="found"):
            make_mask_set(tmp_path / "set", options)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make_mask_set(tmp_path / "file" / "set", SMALL)
