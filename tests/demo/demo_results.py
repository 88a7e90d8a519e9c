"""A result of the demo that nothing was measured for, and what a report says."""

import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from pconv_deploy.assets.photos import photos
from pconv_deploy.benchmark.contenders import REFERENCE
from pconv_deploy.benchmark.run import BenchResult, Timing
from pconv_deploy.demo.fills import TELEA
from pconv_deploy.demo.results import DemoPhoto, DemoResult, score
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.masks.irregular import irregular_hole

MAIN = "onnxruntime, fp32"


def timing(name: str, ratio: float, low: float, high: float, peak: float | None = 300.0) -> Timing:
    p50 = 600 / ratio
    return Timing(
        name=name, p50=p50, p90=1.1 * p50, p99=1.2 * p50, images_per_second=1000 / p50,
        ratio=ratio, ratio_p10=low, ratio_p90=high, peak_mib=peak,
    )  # fmt: skip


def made_up_result(engine: Path, **different: Any) -> DemoResult:
    """A run of a quiet machine: `engine` filled blurred photos, 5 times as fast as PyTorch."""
    manifest = read_manifest(engine)
    assert manifest.engine_parity is not None
    pictures = [_photo(name, photos()[name]) for name in ("astronaut", "china")]
    contenders = [
        timing(REFERENCE, 1, 1, 1, 600.0),
        timing(MAIN, 5, 4.8, 5.2),
        timing(TELEA, 2, 1.9, 2.1, None),
    ]
    by_name = {
        name: score({p.name: (np.asarray(f), np.asarray(p.photo), p.hole) for p, f in fills})
        for name, fills in (
            (MAIN, [(p, p.filled) for p in pictures]),
            (TELEA, [(p, p.by_telea) for p in pictures]),
        )
    }
    facts: dict[str, Any] = {
        "network": "A network", "caveat": "It is <made up>.", "created": "2026-01-02 03:04 UTC",
        "main": MAIN, "engine": Path("a demo/model.engine"), "manifests": {MAIN: manifest},
        "left_out": {}, "photos": pictures, "scores": by_name, "bench": bench_result(contenders),
        "exactness": manifest.engine_parity, "parities": (manifest.engine_parity,) * 2,
        "load": 0.2, "environment": {"torch": "2.13"}, "outputs": {},
    }  # fmt: skip
    return DemoResult(**(facts | different))


def bench_result(contenders: Sequence[Timing], warning: str | None = None) -> BenchResult:
    return BenchResult(
        engines=(), against=None, batch=1, height=512, width=512, rounds=11, threads=None,
        hole_share=0.26, contenders=tuple(contenders), stages=(timing("decode", 100, 1, 1),),
        environment={"processor": "A processor", "cores": "2"}, warning=warning,
    )  # fmt: skip


def _photo(name: str, photo: Image.Image) -> DemoPhoto:
    hole = irregular_hole(np.random.default_rng(0), photo.height, photo.width, (0.2, 0.3)) != 0
    filled, by_telea = (
        Image.composite(photo.filter(ImageFilter.GaussianBlur(by)), photo, Image.fromarray(hole))
        for by in (3, 6)
    )
    return DemoPhoto(name, photo, hole, filled, by_telea)


def figure(html: str, name: str) -> str:
    """One of the figures that matter, as the page shows it."""
    found = re.search(rf'data-figure="{name}">([^<]*)<', html)
    assert found, name
    return unescape(found[1])


def table_rows(html: str) -> dict[str, list[str]]:
    """The table of all contenders: the text of its cells by contender."""
    rows = re.findall(r'<tr data-contender="([^"]*)"[^>]*>(.*?)</tr>', html, flags=re.DOTALL)
    return {
        unescape(name): [
            unescape(re.sub(r"<[^>]*>", "", cell)).strip()
            for cell in re.findall(r"<td>(.*?)</td>", row, flags=re.DOTALL)
        ]
        for name, row in rows
    }
