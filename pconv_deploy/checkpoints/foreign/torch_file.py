"""Read files of torch.save, zip archives and older ones: tensors, and no code.

torch.load(weights_only=True) executes no code of a file, but believes its sizes. So a file is read
twice: once with tensors that have shapes and no memory, and for real when what they claim
is not more than the file holds.
"""

import itertools
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pconv_deploy.errors import CheckpointError
from pconv_deploy.file_types import ZIP
from pconv_deploy.held_file import HeldFile

_MOST_ENTRIES, _LONGEST_PICKLE = 100_000, 256 << 20


class _Inert:
    """Replaces objects that frameworks log beside the weights; takes anything, does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


# Settings of a training script, MMEngine's log of losses and numpy's numbers in it. None of these
# is imported or called.
_INERT_NAMES = (
    "argparse.Namespace",
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{kind}Path" for kind in ("Posix", "PurePosix", "Windows", "PureWindows")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.multiarray.{function}"
        for core in ("core", "_core")
        for function in ("_reconstruct", "scalar")
    ),
)

# Keeps every tensor and what names it. FILE stays a word: its own name might not be harmless in a
# shell.
_REMEDY = (
    'keep the tensors alone, where the file was made: python -c "import torch; '
    "keep = lambda v: v if isinstance(v, torch.Tensor) else keep(v.state_dict()) if hasattr(v, "
    "'state_dict') else {k: keep(w) for k, w in v.items()} if isinstance(v, dict) else [keep(w) "
    "for w in v] if isinstance(v, (list, tuple)) else None; torch.save(keep(torch.load('FILE', "
    "map_location='cpu', weights_only=False)), 'weights.pth')\" and read weights.pth instead"
)


def read_torch_file(file: HeldFile) -> Any:
    """Load the dictionaries, lists, numbers and tensors of a file; tensors are on the CPU.

    Raises:
        CheckpointError: damaged, TorchScript, with objects other than tensors, or claiming more
            than it holds.
    """
    archive = file.start().startswith(ZIP)
    if archive:
        _require_plain_archive(file)
    with FakeTensorMode():
        claimed = _largest_claim(_loaded(file, mmap=False))
    if claimed > file.size:
        raise CheckpointError(
            f"{file.path} is damaged: one of its tensors claims {claimed:,} bytes, the file has "
            f"{file.size:,}"
        )
    return _loaded(file, mmap=archive)


def _tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested dictionaries, lists and tuples."""
    waiting, seen = [content], set[int]()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, Mapping) else item)


def _largest_claim(content: Any) -> int:
    """Return the bytes of the largest storage; tensors may share one, which is not visible here.

    That is enough: a zip archive is mapped, and from an older file storages are read one after
    the other, until it ends.
    """
    # Sparse tensors have no dense storage; their reader refuses them.
    dense = (t for t in _tensors_in(content) if t.layout == torch.strided)
    return max((t.untyped_storage().nbytes() for t in dense), default=0)


def _loaded(file: HeldFile, *, mmap: bool) -> Any:
    inert: list[Any] = [(_Inert, name) for name in _INERT_NAMES]
    file.stream.seek(0)
    source: Any = file.place if mmap else file.stream  # only a path can be mapped
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")  # of old formats; what matters becomes an error
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(file.path, str(error))) from error
    except Exception as error:  # of any kind: the file decides
        if "its data is not allocated" in str(error):  # from torch 2.14 on, in the first reading
            raise CheckpointError(
                f"{file.path} holds sparse tensors; needed dense floating point: store "
                "tensor.to_dense() of each"
            ) from error
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise CheckpointError(f"{file.path} is damaged: {reason[:200]}") from error


def _refusal(path: Path, complaint: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", complaint)
    if found:
        return (
            f"{path} holds objects of {found[1][:200]}, and making one would run code; it was not "
            f"loaded. Needed: tensors, numbers, dictionaries. If you trust its author, {_REMEDY}"
        )
    reason = complaint.partition("WeightsUnpickler error:")[2].strip() or complaint
    return (
        f"{path} is damaged, or written as torch.load(weights_only=True) does not read it: "
        f"{reason.splitlines()[0][:200] if reason else 'no reason given'}. If it is not damaged "
        f"and you trust its author, {_REMEDY}"
    )


def _require_plain_archive(file: HeldFile) -> None:
    path, size = file.path, file.size
    try:
        with zipfile.ZipFile(file.stream) as archive:
            entries = list(itertools.islice(archive.infolist(), _MOST_ENTRIES + 1))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    names = {entry.filename.rpartition("/")[2]: entry for entry in entries}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, which runs as code; it was not opened. If you trust "
            'its author, keep its weights alone, where it runs: python -c "import torch; '
            "torch.save(torch.jit.load('FILE', map_location='cpu').state_dict(), 'weights.pth')\" "
            "and read weights.pth instead"
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive, but not one of torch.save")
    if (
        len(entries) > _MOST_ENTRIES
        or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or sum(entry.file_size for entry in entries) > size
        or names["data.pkl"].file_size > _LONGEST_PICKLE
    ):
        raise CheckpointError(
            f"{path} is no archive of torch.save: its entries are compressed, overlap, or are more "
            f"than {_MOST_ENTRIES:,}; it was not loaded"
        )
