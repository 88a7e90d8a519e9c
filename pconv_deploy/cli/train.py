"""`pconv-deploy train`."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pconv_deploy.cli.console import ERR, OUT, one_folder, print_result
from pconv_deploy.cli.options import OptionalOutput
from pconv_deploy.errors import UsageError, needs

if TYPE_CHECKING:
    from pconv_deploy.training.config import TrainingConfig

_SHOWN = ("loss", "hole", "pictures/s", "validation hole L1 (%)", "unreadable pictures")


def train(
    run: Annotated[Path | None, typer.Argument()] = None,
    output: OptionalOutput = None,
    config: Annotated[str | None, typer.Option("--config", "-c")] = None,
    photos: Annotated[str | None, typer.Option("--photos", "--images")] = None,
    masks: Annotated[Path | None, typer.Option("--masks", "--holes")] = None,
    vgg16: Path | None = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    resume: bool = False,
    any_ranks: bool = False,
) -> None:
    """Train a network; its checkpoint goes through `pconv-deploy export` as it is.

    For several GPUs: torchrun --nproc-per-node 6 -m pconv_deploy train RUN --config ...
    Interrupt it when you like: --resume goes on where it stopped, with several processes from
    the last checkpoint.

    Options:
        run: Output folder of the run.
        output: Output folder, as an option.
        config: Preset (paper-512, naoto-256, compact, mini) or TOML file; docs/training.md.
        photos: Folder of images, or pattern of WebDataset shards.
        masks: Folder of hole masks. Default: random holes.
        vgg16: torchvision's VGG-16 weights, vgg16-397923af.pth.
        settings: Override a setting: data.size=256, batch=4.
        resume: Continue from the last checkpoint of the run.
        any_ranks: Allow resuming with another number of processes.
    """
    with needs("pconv-deploy[train]"):
        from pconv_deploy.training.loop import train as run_training
        from pconv_deploy.training.run_folder import RunFolder

    folder = one_folder(run, output)
    named = {"data.photos": photos, "holes.folder": masks, "loss.vgg16": vgg16}
    # Quoted: a folder may be called 2024.
    overrides = [f"{key}={json.dumps(str(path))}" for key, path in named.items() if path]
    resolved = _resolve(folder, config, [*(settings or []), *overrides], resume=resume)
    # TensorBoard's thread raises what it cannot write in ours as well: one complaint is enough.
    threading.excepthook = lambda raised: (
        None if isinstance(raised.exc_value, OSError) else threading.__excepthook__(raised)
    )
    try:
        with _reporting(resolved.steps) as report:
            network = run_training(
                resolved, folder, resume=resume, any_ranks=any_ranks, progress=report
            )
    except (KeyboardInterrupt, SystemExit):
        if RunFolder(folder).config_file.is_file():
            ERR.print(f"stopped; go on with: pconv-deploy train {folder} --resume", markup=False)
        raise
    if _leads():
        print_result(network, resolved.network.describe())
        OUT.print(f"export it: pconv-deploy export {escape(str(network))} -o model.onnx")


def _resolve(
    folder: Path, config: str | None, overrides: list[str], *, resume: bool
) -> "TrainingConfig":
    from pconv_deploy.training.config import load_config, override_config
    from pconv_deploy.training.run_folder import RunFolder

    if resume:
        if config:
            raise UsageError("a resumed run keeps its settings; change single ones with --set")
        return override_config(RunFolder(folder).config_to_resume(), overrides)
    if not config:
        raise UsageError("name the settings with --config: a preset, such as mini, or a TOML file")
    return load_config(config, overrides)


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _reporting(steps: int) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A progress bar with the time that is left; lines where there is no terminal."""
    if not _leads():
        yield lambda _step, _of, _figures: None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def report(step: int, of: int, figures: Mapping[str, float]) -> None:
            shown = "  ".join(f"{n} {figures[n]:.4g}" for n in _SHOWN if n in figures)
            bar.update(task, completed=step, description=shown)
            if not ERR.is_terminal:
                ERR.print(f"step {step}/{of}  {shown}", markup=False)

        yield report
