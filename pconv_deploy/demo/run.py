"""Export, build, fill, measure, report: the steps a user takes, in one function."""

import datetime
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from PIL import Image

from pconv_deploy.assets.network import CAVEAT, copy_network
from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.demo.engines import (
    BESIDE,
    MAIN,
    Kind,
    build_beside,
    compare_with_float64,
    contender,
)
from pconv_deploy.demo.fills import TELEA, fill_photos, score_fills
from pconv_deploy.demo.measuring import MeasureRequest, measure
from pconv_deploy.demo.report import write_report
from pconv_deploy.demo.results import DemoPhoto, DemoResult
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.export.checkpoint_to_onnx import ExportResult, export_checkpoint
from pconv_deploy.files import atomic_file
from pconv_deploy.images.contact_sheet import write_contact_sheet

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "opencv-python-headless")


def run_demo(
    folder: Path,
    own_checkpoint: Path | None = None,
    *,
    rounds: int = 11,
    beside: Sequence[Kind] = BESIDE,
    memory: bool = True,
    progress: Callable[[str], None] = lambda _step: None,
) -> DemoResult:
    """Go the whole way in `folder`, replacing what an earlier run left there.

    Args:
        folder: for everything.
        own_checkpoint: None takes the network that comes with the package.
        rounds: of the speed comparison.
        beside: engines beside the demo's own.
        memory: measure the peak memory of each.
        progress: is told each step.

    Raises:
        PConvError: any step's own error. Engines beside the demo's own may fail: the report says
            why.
    """
    load = os.getloadavg()[0]
    graph, engine, main = folder / "model.onnx", folder / "model.engine", contender(MAIN)
    checkpoint, caveat = _network(folder, own_checkpoint)
    exported, built = _export_and_build(checkpoint, graph, engine, progress)
    progress("comparing the engine with the literal network in float64")
    exactness = compare_with_float64(checkpoint, graph, built)
    others, left_out = build_beside(graph, folder / "engines", beside, progress)
    progress("filling holes")
    photos, no_yardstick = fill_photos(folder, engine)
    if no_yardstick:
        left_out[TELEA] = no_yardstick
    engines = {main: engine} | {name: path for name, (path, _) in others.items()}
    progress("comparing the fills with the originals")
    scores = score_fills(photos, main, {n: p for n, p in engines.items() if n != main})
    progress("measuring speed")
    paths, yardstick = tuple(map(str, engines.values())), not no_yardstick
    request = MeasureRequest(
        engines=paths, checkpoint=str(checkpoint), rounds=rounds, yardstick=yardstick, memory=memory
    )
    measured = measure(request, progress)
    progress("writing the report")
    result = DemoResult(
        network=exported.contract.source.describe_network(),
        caveat=caveat,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        main=main,
        engine=engine,
        manifests={main: built} | {name: manifest for name, (_, manifest) in others.items()},
        left_out=left_out,
        photos=photos,
        scores=scores,
        bench=measured,
        exactness=exactness,
        parities=tuple(p for p in (exported.parity, built.engine_parity) if p),
        load=load,
        environment=dict(measured.environment) | _versions(),
        outputs=_outputs(folder, engine, graph),
    )
    _write(folder, result)
    return result


def _export_and_build(
    checkpoint: Path, graph: Path, engine: Path, progress: Callable[[str], None]
) -> tuple[ExportResult, Manifest]:
    exported = export_checkpoint(
        checkpoint, graph, overwrite=True, progress=lambda step: progress(f"export: {step}")
    )
    name = contender(MAIN)
    built = build_engine(
        graph, engine, overwrite=True, progress=lambda step: progress(f"build {name}: {step}")
    )
    assert built.engine_parity is not None  # a CPU runs what it builds
    return exported, built


def _network(folder: Path, own: Path | None) -> tuple[Path, str]:
    """The checkpoint, and what to expect of it."""
    if own:
        return own, f"The network is {own.name}."
    checkpoint = folder / NETWORK_FILE
    copy_network(checkpoint)
    return checkpoint, CAVEAT


def _outputs(folder: Path, engine: Path, graph: Path) -> dict[Path, str]:
    return {
        folder / "report.html": "speed, exactness, pictures and engines in one page",
        folder / "contact-sheet.png": "photo, hole, result",
        engine: "the engine, ready for `pconv-deploy infer`, `serve` and Inpainter.load",
        graph: "the exported graph",
        folder / "bench.json": "all timings",
    }


def _write(folder: Path, result: DemoResult) -> None:
    with atomic_file(folder / "bench.json") as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(result.bench), indent=2))
    rows = {p.name: _row(p) for p in result.photos}
    columns = ("photo", "hole", "filled")
    write_contact_sheet(folder / "contact-sheet.png", columns, rows, result.network)
    write_report(folder / "report.html", result)


def _row(photo: DemoPhoto) -> tuple[Image.Image, Image.Image, Image.Image]:
    with_hole = photo.photo.copy()
    with_hole.paste((255, 255, 255), mask=Image.fromarray(photo.hole))
    return photo.photo, with_hole, photo.filled


def _versions() -> dict[str, str]:
    found = {}
    for package in ("pconv-deploy", *_PACKAGES, "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
