"""One self-contained HTML file: pictures, timings, parity, environment."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pconv_deploy.files import atomic_file


def write_report(path: Path, **facts: Any) -> None:
    """Render `report.html.j2` with `facts`; pictures go in as data, nothing is linked."""
    environment = Environment(
        loader=PackageLoader("pconv_deploy.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(**facts)
    with atomic_file(path) as partial:
        partial.write_text(html, encoding="utf-8")


def as_data(rows: Mapping[str, Sequence[Image.Image]]) -> dict[str, list[str]]:
    """Pictures as data URLs, for <img src>."""
    return {name: [_data_url(picture) for picture in pictures] for name, pictures in rows.items()}


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
