"""Export, build, fill, measure, report: the steps a user takes, in one function."""

import datetime
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from pconv_deploy.batch import fill_jobs
from pconv_deploy.bench import BenchResult
from pconv_deploy.contact_sheet import write_contact_sheet
from pconv_deploy.contract import NETWORK_FILE
from pconv_deploy.demo.network import CAVEAT, copy_network
from pconv_deploy.demo.photos import CREDITS, photos
from pconv_deploy.demo.report import as_data, write_report
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.errors import EngineError
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.files import atomic_file
from pconv_deploy.holes import AREA_BUCKETS, irregular_hole
from pconv_deploy.image_files import save_image
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.jobs import Job
from pconv_deploy.parity import ParityReport
from pconv_deploy.processes import run_child

_COLUMNS = ("photo", "hole", "filled")
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class DemoResult:
    """What the demo made; `outputs` by path, with what each is."""

    caveat: str
    export_parity: ParityReport
    engine_parity: ParityReport
    bench: BenchResult
    outputs: dict[Path, str]


def run_demo(
    folder: Path,
    *,
    own_checkpoint: Path | None = None,
    rounds: int = 11,
    progress: Callable[[str], None] = lambda _step: None,
) -> DemoResult:
    """Go the whole way in `folder`, replacing what an earlier run left there.

    Args:
        folder: for everything.
        own_checkpoint: None takes the network that comes with the package.
        rounds: of the speed comparison.
        progress: is told each step.

    Raises:
        PConvError: any step's own error.
    """
    checkpoint, graph = folder / NETWORK_FILE, folder / "model.onnx"
    engine, report = folder / "model.engine", folder / "report.html"
    originals = photos()

    if own_checkpoint is None:
        caveat = CAVEAT
        copy_network(checkpoint)
    else:
        caveat = f"The network is {own_checkpoint.name}."
        checkpoint = own_checkpoint
    exported = export_checkpoint(
        checkpoint, graph, overwrite=True, progress=lambda step: progress(f"export: {step}")
    )
    built = build_engine(
        graph, engine, overwrite=True, progress=lambda step: progress(f"build: {step}")
    )
    accepted = built.engine_parity
    assert accepted is not None  # a CPU runs what it builds
    progress("filling holes")
    rows = _fill(folder, engine, originals)
    progress(f"measuring, {rounds} rounds")
    measured = _measure(engine, checkpoint, rounds)
    progress("writing the report")
    with atomic_file(folder / "bench.json") as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=2))
    network = exported.contract.source.describe_network()
    write_contact_sheet(folder / "contact-sheet.png", _COLUMNS, rows, network)
    write_report(
        report,
        network=network,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        caveat=caveat,
        columns=_COLUMNS,
        pictures=as_data(rows),
        bench=measured,
        parities=(exported.parity, accepted),
        environment=dict(measured.environment)
        | {p: version(p) for p in ("pconv-deploy", *_PACKAGES)},
        credits=CREDITS,
    )
    outputs = {
        report: "pictures, timings, parity and environment in one page",
        folder / "contact-sheet.png": "photo, hole, result",
        engine: "the engine, ready for `pconv-deploy infer` and Inpainter.load",
        graph: "the exported graph",
        folder / "bench.json": "all timings",
    }
    return DemoResult(caveat, exported.parity, accepted, measured, outputs)


def _measure(engine: Path, checkpoint: Path, rounds: int) -> BenchResult:
    """Run `pconv-deploy bench` in a process of its own, where nothing ran before it.

    What an earlier step did to the allocator and the thread pools changes PyTorch's times by
    as much as a third.
    """
    arguments = (str(engine), "--against", str(checkpoint), "--rounds", str(rounds))
    done = run_child((sys.executable, "-m", "pconv_deploy", "bench", *arguments, "--json"))
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip() or "its process was killed"
        ours = done.returncode not in (EngineError.exit_code, *range(-64, 0))
        kind = RuntimeError if ours else EngineError
        raise kind(f"measuring failed: {complaint}")
    return msgspec.json.decode(done.stdout, type=BenchResult)


def _fill(
    folder: Path, engine: Path, originals: dict[str, Image.Image]
) -> dict[str, tuple[Image.Image, Image.Image, Image.Image]]:
    """Fill through files, as `infer` does; give back photo, photo with hole, result."""
    rng = np.random.default_rng(7)
    holes = {}
    for (name, photo), area in zip(originals.items(), AREA_BUCKETS, strict=True):
        holes[name] = Image.fromarray(irregular_hole(rng, photo.height, photo.width, area))
        save_image(folder / "photos" / f"{name}.png", photo)
        save_image(folder / "holes" / f"{name}.png", holes[name])
    jobs = [
        Job(folder / "photos" / name, folder / "holes" / name, folder / "filled" / name)
        for name in (f"{name}.png" for name in originals)
    ]
    rows = {}
    with Inpainter.load(engine) as inpainter:
        for outcome in fill_jobs(inpainter, jobs):
            if outcome.error is not None:
                raise outcome.error
            name = outcome.job.image.stem
            photo = originals[name]
            with_hole = photo.copy()
            with_hole.paste((255, 255, 255), mask=holes[name])
            with Image.open(outcome.job.output) as result:
                rows[name] = (photo, with_hole, result.convert("RGB"))
    return rows
