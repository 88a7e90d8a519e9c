"""One self-contained HTML file: figures, pictures, engines, commands; nothing is fetched."""

import base64
import io
import shlex
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pconv_deploy.assets.photos import CREDITS, photo_file
from pconv_deploy.benchmark.run import Timing
from pconv_deploy.demo.charts import charts, display_name, engine_mib, scientific
from pconv_deploy.demo.fills import TELEA
from pconv_deploy.demo.results import WIDE, DemoPhoto, DemoResult, spread
from pconv_deploy.files import atomic_file

_EVIDENCE = (
    "Engine against the literal network in float64",
    "Graph against the literal network in float64",
    "Engine against graph",
)


def write_report(path: Path, result: DemoResult) -> None:
    """Render `report.html.j2`; style, script and pictures are put into the page.

    Raises:
        OutputError: not writable.
    """
    environment = Environment(
        loader=PackageLoader("pconv_deploy.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(spread=spread, WIDE=WIDE, telea=TELEA, mib=engine_mib)
    environment.filters.update(name=display_name, scientific=scientific, decibel=_decibel)
    needed, kept = engine_mib(result, result.main)
    html = environment.get_template("report.html.j2").render(
        result=result,
        bench=result.bench,
        fastest=_fastest(result),
        needed=needed,
        kept=kept,
        photos=[_shown(photo, result) for photo in result.photos],
        charts=charts(result),
        evidence=zip(_EVIDENCE, (result.exactness, *result.parities), strict=True),
        engine=shlex.quote(str(result.engine)),
        credits=CREDITS,
        style=_part("report.css"),
        script=_part("report.js"),
    )
    with atomic_file(path) as page:
        page.write_text(html, encoding="utf-8")


def _fastest(result: DemoResult) -> Timing | None:
    """The engine that is faster than the demo's own, and than all others; None: there is none."""
    timings = [t for t in result.bench.contenders if t.name in result.manifests]
    best = max(timings, key=lambda t: t.ratio or 0.0)
    return None if best.name == result.main else best


def _decibel(psnr: float | None) -> str:
    return "∞" if psnr is None else f"{psnr:.1f} dB"


def _part(name: str) -> Markup:
    text = files("pconv_deploy.demo").joinpath(name).read_text(encoding="utf-8")
    return Markup(text)


def _shown(photo: DemoPhoto, result: DemoResult) -> dict[str, Any]:
    """The pictures of one photo as data URLs, with what is said of it."""
    lossless = partial(_encoded, kind="webp", lossless=True)  # the page zooms in to single pixels
    # White where the hole is, transparent elsewhere.
    hole = _encoded(Image.fromarray(photo.hole), "png", transparency=0, optimize=True)
    return {
        "name": photo.name,
        "width": photo.photo.width,
        "height": photo.photo.height,
        "share": float(photo.hole.mean()),
        "original": _url("jpeg", photo_file(photo.name)),
        "hole": hole,
        "filled": lossless(photo.filled),
        "telea": photo.by_telea and lossless(photo.by_telea),
        "psnr": {name: found.photo_psnr(photo.name) for name, found in result.scores.items()},
    }


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return _url(kind, stream.getvalue())


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
