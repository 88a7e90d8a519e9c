"""List the image files of a folder and report the skipped ones. Rules: docs/files.md."""

import logging
import os
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pconv_deploy.errors import InputError
from pconv_deploy.files import is_temporary
from pconv_deploy.images.file_types import (
    FIRST_BYTES,
    READ_KINDS,
    READ_SUFFIXES,
    UNREAD_SUFFIXES,
    UNSUPPORTED,
    may_hide_a_picture,
    picture_kind,
    suffix_of,
)

_LOG = logging.getLogger(__name__)
_NAMED = READ_SUFFIXES | UNREAD_SUFFIXES
Identity = tuple[int, int]  # of a folder, whatever it is called: device, inode


@dataclass(frozen=True)
class Unread:
    """An image file or folder that cannot be read; `why` names it."""

    path: Path
    why: str


@dataclass(frozen=True)
class Pictures:
    """What a folder and the folders in it hold.

    names     of pictures to be read, relative to the folder, in the order of their parts
    unread    pictures of other kinds, broken links, folders without permission
    notes     what was left out on purpose: hidden pictures, folders that were read already
    aside     folders that the caller wanted left out
    excluded  files and folders that a pattern of the caller's left out
    """

    root: Path
    names: list[str] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    excluded: list[Path] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.names]

    def require_some(self, found: Collection[object] | None = None) -> None:
        """Check that at least one image was found, or is left of `names` in `found`.

        Raises:
            InputError: no image; the message lists what was left out.
        """
        if self.names if found is None else found:
            return
        reasons = [one.why for one in self.unread[:1]]
        if len(self.unread) > 1:
            reasons.append(f"{len(self.unread) - 1} more cannot be read")
        reasons += self.notes
        reasons += [f"{path} is left out, as the place of masks or outputs" for path in self.aside]
        if self.excluded:
            reasons.append(f"{len(self.excluded)} excluded, such as {self.excluded[0]}")
        if self.names:
            reasons.append(f"{self.root / self.names[0]} is a mask")
        said = "".join(f"; {reason}" for reason in reasons)
        raise InputError(f"{self.root} holds no pictures ({', '.join(READ_KINDS)}){said}")

    def warn(self, *, of_unread: bool = True) -> None:
        """Log the skipped files, one line per reason."""
        if self.unread and of_unread:
            more = f"; {len(self.unread) - 1} more in {self.root}" if len(self.unread) > 1 else ""
            _LOG.warning("left out: %s%s", self.unread[0].why, more)
        for note in self.notes:
            _LOG.warning("left out: %s", note)


def list_pictures(
    folder: Path, *, aside: Collection[Path] = (), exclude: Collection[str] = ()
) -> Pictures:
    """Find the image files of a folder and its subfolders.

    Links to folders are followed, each folder is read once. Hidden files and folders are left
    out.

    Args:
        folder: where to look.
        aside: folders to leave out where they lie below `folder`.
        exclude: patterns of names, or of paths that begin with `folder`, to leave out.

    Raises:
        InputError: it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}")
    found = Pictures(folder)
    _Walk(found, {_identity(path) for path in aside if path.is_dir()}, exclude).run()
    found.names.sort(key=lambda name: name.split(os.sep))
    found.unread.sort(key=lambda one: one.path)
    return found


class _Walk:
    """Walks folders: real ones first, then linked ones."""

    def __init__(
        self, found: Pictures, aside: Collection[Identity], exclude: Collection[str]
    ) -> None:
        self.found = found
        self.exclude = [composed(pattern) for pattern in exclude]
        self.aside = set(aside)
        self.above = {_identity(parent) for parent in found.root.resolve().parents}
        self.seen: set[Identity] = set()
        self.folders, self.links, self.hidden = [""], list[str](), list[str]()

    def run(self) -> None:
        while self.folders or self.links:
            self._folder(self.folders.pop() if self.folders else self.links.pop(0))
        hidden = sorted(name for name in self.hidden if _holds_picture(self.found.root / name))
        if hidden:
            more = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
            place = self.found.root / hidden[0]
            self.found.notes.append(f"{place}{more}, with pictures, hidden by a leading dot")

    def _folder(self, name: str) -> None:
        place = self.found.root / name
        try:
            identity = _identity(place)
            if name and identity in self.aside:
                self.found.aside.append(place)
                return
            if identity in self.seen or identity in self.above:
                where = "is read already" if identity in self.seen else f"holds {self.found.root}"
                self.found.notes.append(f"{place}, a link to a folder that {where}")
                return
            self.seen.add(identity)
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._entry(entry, os.path.join(name, entry.name))
        except OSError as error:
            self._unread(name, f"cannot read {place}: {error.strerror}")

    def _entry(self, entry: "os.DirEntry[str]", name: str) -> None:
        if self._is_excluded(entry.name) or self._is_excluded(str(self.found.root / name)):
            self.found.excluded.append(self.found.root / name)
            return
        if entry.name.startswith("."):
            self.hidden.append(name)
        elif _true(entry.is_dir):
            (self.links if entry.is_symlink() else self.folders).append(name)
        else:
            self._file(entry, name)

    def _is_excluded(self, name: str) -> bool:
        return any(fnmatchcase(composed(name), pattern) for pattern in self.exclude)

    def _file(self, entry: "os.DirEntry[str]", name: str) -> None:
        suffix, is_file = suffix_of(name), _true(entry.is_file)
        if suffix in READ_SUFFIXES and is_file:
            self.found.names.append(name)
            return
        path = self.found.root / name
        if entry.is_symlink() and not os.path.exists(path):
            if suffix in _NAMED or may_hide_a_picture(suffix):  # or a folder of pictures
                self._unread(name, f"{path} is a broken link")
        elif suffix in _NAMED and not is_file:
            self._unread(name, f"{path} is no regular file")
        elif suffix in UNREAD_SUFFIXES:
            self._unread(name, f"{path} is {UNSUPPORTED.format(suffix)}")
        elif may_hide_a_picture(suffix) and (kind := _kind_of_file(path)):
            todo = "rename it" if kind in READ_KINDS else "convert it to PNG or JPEG"
            self._unread(name, f"{path} is a {kind} picture with another extension: {todo}")

    def _unread(self, name: str, why: str) -> None:
        self.found.unread.append(Unread(self.found.root / name, why))


def same_name(name: str) -> str:
    """Return a key for comparing names without case and Unicode form, as some file systems do."""
    return composed(composed(name).lower())


def composed(name: str) -> str:
    """Return the composed Unicode form of a name: a letter and its accent are one character."""
    return unicodedata.normalize("NFC", name)


def _identity(place: Path) -> Identity:
    status = place.stat()
    return status.st_dev, status.st_ino


def _true(check: Callable[[], bool]) -> bool:
    """Evaluate a check of a directory entry; False for circular links."""
    try:
        return check()
    except OSError:
        return False


def _kind_of_file(path: Path) -> str | None:
    if not path.is_file():  # a pipe would wait for its writer
        return None
    try:
        with path.open("rb") as stream:
            return picture_kind(stream.read(FIRST_BYTES))
    except OSError:  # its name does not say that it is a picture
        return None


def _holds_picture(hidden: Path) -> bool:
    """Whether a hidden file is a picture, or a hidden folder has some, by their names."""
    if not hidden.is_dir():
        return _named_as_picture(hidden.name) and _kind_of_file(hidden) is not None
    return any(
        _named_as_picture(name) for _place, _folders, names in os.walk(hidden) for name in names
    )


def _named_as_picture(name: str) -> bool:
    return suffix_of(name) in _NAMED and not is_temporary(name)
