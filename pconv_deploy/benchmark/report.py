"""What reports of benchmarks share: the machine, Markdown tables, and both files written whole."""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from pconv_deploy.engines.processor import model_name
from pconv_deploy.files import atomic_file


def describe_machine(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return processor, cores, system, Python and the versions of those packages that are here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "processor": model_name(),
        "cores": str(cores),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lay out a Markdown table, line by line."""
    yield _row(header)
    yield "|---" * len(header) + "|"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_report(paths: tuple[Path, Path], report: msgspec.Struct, markdown: str) -> None:
    """Write a report as JSON and as Markdown, each whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(report), indent=2)
    for path, content in zip(paths, (data, markdown.encode()), strict=True):
        with atomic_file(path) as partial:
            partial.write_bytes(content)
