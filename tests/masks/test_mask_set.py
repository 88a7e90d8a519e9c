from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import OutputError, UsageError
from pconv_deploy.masks.mask_set import CLASSES, MaskSetOptions, make_mask_set
from pconv_deploy.masks.plot import plot_mask_set
from pconv_deploy.masks.reading import HoleMaskFile, read_mask_set
from tests.masks.conftest import contents

SMALL = MaskSetOptions(height=48, width=64, per_class=1, seed=4)


def test_the_same_set_however_many_workers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_mask_set(tmp_path / "one", SMALL, progress=lambda *done: seen.append(done))
    make_mask_set(tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert seen[-1] == (12, 12)


def test_the_manifest_states_the_classes_that_the_pixels_have(tmp_path: Path) -> None:
    make_mask_set(tmp_path / "set", SMALL)
    listed = read_mask_set(tmp_path / "set")
    assert [(m.bucket, m.border) for m in listed] == list(CLASSES)
    (tmp_path / "set" / "holes.json").unlink()
    assert read_mask_set(tmp_path / "set") == listed


def test_what_cannot_be_made(tmp_path: Path) -> None:
    for options in (MaskSetOptions(height=8), MaskSetOptions(per_class=0), MaskSetOptions(seed=-1)):
        with pytest.raises(UsageError, match="found"):
            make_mask_set(tmp_path / "set", options)


def test_a_set_is_plotted(tmp_path: Path) -> None:
    make_mask_set(tmp_path / "set", SMALL)
    masks = read_mask_set(tmp_path / "set")
    plot_mask_set(masks, tmp_path / "all.png")
    plot_mask_set([*masks[:3], HoleMaskFile(tmp_path / "of no class")], tmp_path / "few.png")
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("all", "few")]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        plot_mask_set(masks, tmp_path / "file" / "plot.png")
