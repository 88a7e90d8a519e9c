"""Scores on disk, one line per image, from which a stopped evaluation resumes."""

import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

import msgspec

from pconv_deploy.contract import Sha256
from pconv_deploy.errors import InputError, OutputError, UsageError
from pconv_deploy.evaluation.methods import MethodSpec
from pconv_deploy.files import (
    atomic_file,
    clear_temporary_files,
    is_still,
    read_json_bytes,
    writing,
)

SETTINGS, JOURNAL = "settings.json", "scores.jsonl"
# Everything an evaluation writes into its folder.
RESULTS, TABLE, GRID, EXAMPLES = "results.json", "table.md", "grid.png", "examples"
_OURS = {SETTINGS, JOURNAL, RESULTS, TABLE, GRID, EXAMPLES}


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture filled by one method; for `metrics.PictureMetrics` see there.

    seconds   of the fill alone, from array to array
    features  Inception's, see `perceptual.as_features`
    """

    pair: int
    method: str
    l1: float
    l1_hole: float | None = None
    psnr: float | None = None
    ssim: float
    seconds: float
    lpips: float | None = None
    features: bytes | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings the scores depend on; scores are combined only if all are equal.

    pairs    SHA-256 of all pairs with the files' sizes and times of change
    weights  SHA-256 of the files of weights that metrics needed
    """

    format: Literal[1] = 1
    methods: tuple[MethodSpec, ...]
    images: str
    masks: str | None
    mask_convention: str
    mask_threshold: int | None = None
    size: tuple[int, int] | None
    per_class: int | None
    seed: int
    max_pixels: int
    pairs: Sha256
    weights: dict[str, Sha256]


def prepare_folder(folder: Path, settings: Settings, *, resume: bool, overwrite: bool) -> None:
    """Create the folder, if scores of these settings may be added to it; keep its contents.

    Further methods may join when an evaluation goes on; all else must be as it was.

    Raises:
        UsageError: the folder holds an evaluation and nothing says what to do with it, holds
            other files, or was begun with other settings.
        OutputError: the folder cannot be written.
    """
    before = _previous(folder)
    if before is not None and not (resume or overwrite):
        raise UsageError(
            f"{folder} holds an evaluation already; pass --resume to go on with it, or "
            "--overwrite to do it again"
        )
    if before is not None and resume and (difference := _difference(before, settings)):
        raise UsageError(
            f"{folder} was begun with other settings: {difference}. Give the same, another "
            "--output, or --overwrite to begin again"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _previous(folder: Path) -> Settings | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; choose another --output")
    unexpected = sorted(p.name for p in folder.iterdir() if not _is_ours(p.name))
    if unexpected:
        raise UsageError(
            f"{folder} holds {unexpected[0]}, which is no part of an evaluation; choose another "
            "--output"
        )
    path = folder / SETTINGS
    if not path.is_file():
        journal = folder / JOURNAL
        if journal.exists() and journal.stat().st_size:  # empty: killed before it had settings
            raise UsageError(f"{folder} holds no {SETTINGS}, so it is no evaluation of ours")
        return None
    try:
        return msgspec.json.decode(read_json_bytes(path), type=Settings)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged: {error}. Remove {folder}") from error


def _is_ours(name: str) -> bool:
    # Files being written when a process is killed stay behind, hidden.
    return name in _OURS or (name.startswith(".") and ".partial" in name)


def _difference(before: Settings, now: Settings) -> str | None:
    """Describe the first setting that differs."""
    known = {spec.label: spec for spec in now.methods}
    for spec in before.methods:
        if spec.label not in known:
            return f"method {spec.label} was evaluated and is not given now"
        if _identity(spec) != _identity(known[spec.label]):
            return f"method {spec.label} ({spec.source}) has changed"
    if before.weights != now.weights:
        return "the files of weights (--vgg16, --lpips-heads, --inception) differ"
    if before.max_pixels != now.max_pixels:
        was, is_now = (settings.max_pixels / 1e6 for settings in (before, now))
        return f"--max-megapixels was {was:g}, is {is_now:g}"
    inputs = ("images", "masks", "mask_convention", "mask_threshold")
    for name in (*inputs, "size", "per_class", "seed"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return f"--{name.replace('_', '-')} was {_shown(old)}, is {_shown(new)}"
    if before.pairs != now.pairs:
        return "pictures or hole masks were added, removed or changed"
    return None


def _identity(spec: MethodSpec) -> tuple[str, str]:
    return spec.kind, spec.sha256 or spec.source


def readable(name: Path | str) -> str:
    """A file's name as text; names need not be Unicode."""
    return str(name).encode(errors="replace").decode()


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "not given" if value is None else str(value)


class Journal:
    """Scores on disk; `add` returns after complete lines were written.

    One process at a time has the journal of a folder; only it changes anything there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / JOURNAL
        with writing(self._path):
            self._stream = self._path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise UsageError(f"another evaluation is writing to {folder}") from None
        except OSError:
            pass  # not every file system can

    def begin(self, settings: Settings, *, resume: bool) -> None:
        """Clear the folder, or what killed processes left there, and write the settings."""
        with writing(self._folder):
            if not resume:
                self._clear()
        for place in (self._folder, self._folder / EXAMPLES):
            clear_temporary_files(place)
        with atomic_file(self._folder / SETTINGS) as partial:
            partial.write_bytes(
                msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
            )

    def _clear(self) -> None:
        self._stream.truncate(0)
        for path in self._folder.iterdir():
            if path.name == EXAMPLES:
                for picture in path.iterdir():
                    picture.unlink()
                path.rmdir()
            elif path != self._path:
                path.unlink()

    def read(self) -> list[Score]:
        """All scores; a last line that was cut off is removed.

        Raises:
            InputError: another line cannot be read.
        """
        self._stream.seek(0)
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with writing(self._path):
                self._stream.truncate(whole)
        try:
            return msgspec.json.Decoder(Score).decode_lines(content[:whole])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path} is damaged: {error}; begin with --overwrite") from error

    def add(self, scores: Iterable[Score]) -> None:
        """Append scores.

        Raises:
            OutputError: they cannot be written, or the folder was removed meanwhile.
        """
        if not is_still(self._path, self._stream.fileno()):
            raise OutputError(f"cannot write {self._path}: it was removed or replaced meanwhile")
        with writing(self._path):
            self._stream.write(msgspec.json.Encoder().encode_lines(list(scores)))
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()
