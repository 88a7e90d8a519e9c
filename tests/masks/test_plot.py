from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import OutputError
from pconv_deploy.masks.mask_set import MaskSetOptions, make_mask_set
from pconv_deploy.masks.plot import plot_mask_set
from pconv_deploy.masks.reading import HoleMaskFile, read_mask_set


def test_a_set_is_plotted(tmp_path: Path) -> None:
    make_mask_set(tmp_path / "set", MaskSetOptions(height=48, width=64, per_class=1))
    masks = read_mask_set(tmp_path / "set")
    plot_mask_set(masks, tmp_path / "all.png")
    plot_mask_set([*masks[:3], HoleMaskFile(tmp_path / "of no class")], tmp_path / "few.png")
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("all", "few")]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        plot_mask_set(masks, tmp_path / "file" / "plot.png")
