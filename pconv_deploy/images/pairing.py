"""Match mask files to photos by name. The rule: docs/files.md."""

import glob
import logging
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pconv_deploy.images.listing import Pictures, composed, same_name

_LOG = logging.getLogger(__name__)
_MARK = "_mask"
_SHOWN = 4  # candidates named in a message
Place = str  # a folder, relative to that of all photos or masks, as `same_name` has it


class MasksOfPhoto(NamedTuple):
    """The masks of one photo, or the reason why there is none."""

    masks: tuple[Path, ...]
    problem: str | None = None


class MaskFolder:
    """Finds masks by names: `b.*`, `b.jpg.*`, `b_mask.*`, or several `b_mask*.*` of `b.jpg`.

    Names are the same if people see them so: in any Unicode form, in capital or small letters.
    """

    def __init__(self, masks: Pictures, photos_root: Path) -> None:
        self._masks, self._root = masks, photos_root
        self._by_stem: dict[tuple[Place, str], list[Path]] = defaultdict(list)
        self._marked: dict[tuple[Place, str], list[Path]] = defaultdict(list)
        self._anywhere: dict[str, list[Path]] = defaultdict(list)
        for path in masks.paths:
            place, stem = _place(path, masks.root), same_name(path.stem)
            self._by_stem[place, stem].append(path)
            self._anywhere[stem].append(path)
            marked, mark, _ = stem.rpartition(_MARK)
            if mark:
                self._marked[place, marked].append(path)
                self._anywhere[marked].append(path)
        self._resolved = cache(Path.resolve)  # asks the file system for every part of a path
        self._photos: set[Path] = set()
        self._names_of_photos: dict[Place, set[str]] = defaultdict(set)
        self._wanted: set[Path] = set()
        self._other_letters: list[tuple[Path, Path]] = []

    def is_marked_mask(self, path: Path) -> bool:
        """Whether a file is named as the mask of another image in its folder."""
        place, stem = _place(path, self._masks.root), same_name(path.stem)
        marked, mark, _ = stem.rpartition(_MARK)
        return bool(mark) and (place, marked) in self._by_stem

    def pair(self, photos: Sequence[Path]) -> list[MasksOfPhoto]:
        """Find the masks of each photo; an ambiguous match is reported as a problem."""
        self._photos = {self._resolved(photo) for photo in photos}
        for photo in photos:
            names = self._names_of_photos[_place(photo, self._root)]
            names |= {composed(photo.stem), composed(photo.name)}
        return [self._masks_of(photo) for photo in photos]

    def warn_of_letters(self) -> None:
        """Log which masks were found only by ignoring upper and lower case."""
        if self._other_letters:
            photo, mask = self._other_letters[0]
            more = f", and {len(self._other_letters) - 1} more" * (len(self._other_letters) > 1)
            _LOG.warning(
                "%s", f"{mask} is taken for {photo}, although upper and lower case differ{more}"
            )

    def warn_of_others(self) -> None:
        """Log which masks belong to no photo."""
        idle = [
            path
            for path in self._masks.paths
            if path not in self._wanted and self._resolved(path) not in self._photos
        ]
        if idle:
            _LOG.warning("%s", f"no photo for {_counted(idle, 'mask')}")

    def _masks_of(self, photo: Path) -> MasksOfPhoto:
        place = _place(photo, self._root)
        named = [
            *self._by_stem[place, same_name(photo.stem)],
            *self._by_stem[place, same_name(photo.name)],
        ]
        # Beside its photo only a mask that says so in its name is one.
        beside = self._resolved(photo.parent)
        named = [path for path in named if self._resolved(path.parent) != beside]
        plain = self._mine(photo, named)
        marked = self._mine(photo, self._marked[place, same_name(photo.stem)])
        found = tuple(plain + marked)
        self._wanted |= set(found)
        if not found:
            return MasksOfPhoto((), self._missing(photo))
        if len(found) > 1 and (plain or not _numbered(marked)):
            return MasksOfPhoto((), _question(photo, found))
        self._other_letters += [(photo, mask) for mask in found if not self._as_is(photo, mask)]
        return MasksOfPhoto(found)

    def _mine(self, photo: Path, candidates: Iterable[Path]) -> list[Path]:
        """Candidates that are not photos and do not match another photo exactly."""
        all_names = self._names_of_photos[_place(photo, self._root)]
        own = (composed(photo.stem), composed(photo.name))
        return [
            path
            for path in candidates
            if (composed(path.stem) in own or composed(path.stem) not in all_names)
            and self._resolved(path) not in self._photos
        ]

    def _as_is(self, photo: Path, mask: Path) -> bool:
        """Whether a mask's name and folder are those of its photo without ignoring case."""
        name = str(mask.relative_to(self._masks.root))
        return composed(name).startswith(
            composed(str(photo.relative_to(self._root).with_suffix("")))
        )

    def _missing(self, photo: Path) -> str:
        stem = same_name(photo.stem)
        said = f"{photo} has no mask of the same name in {self._masks.root}"
        elsewhere = [p for p in self._anywhere[stem] if self._resolved(p) not in self._photos]
        unread = [one for one in self._masks.unread if same_name(one.path.stem) == stem]
        if unread:
            return f"{said}; {unread[0].why}"
        if elsewhere:
            wanted = self._masks.root / photo.relative_to(self._root).with_suffix(".*")
            return f"{said}; found {_counted(elsewhere, 'mask')}; needed {wanted}"
        if photo.parent.resolve() == self._masks.root.resolve():
            return f"{said}; in the photos' own folder it is called {photo.stem}{_MARK}.png"
        return said


def _place(path: Path, root: Path) -> Place:
    return same_name(str(path.relative_to(root).parent))


def _numbered(marked: Sequence[Path]) -> bool:
    """Whether masks are a numbered series, as LaMa's b_mask001 and b_mask002: one result each."""
    tails = [same_name(path.stem).rpartition(_MARK)[2] for path in marked]
    return all(tails) and len(set(tails)) == len(tails)


def _question(photo: Path, found: Sequence[Path]) -> str:
    pattern = shlex.quote(glob.escape(str(found[0])))
    return (
        f"found {_counted(found, 'mask')} for {photo}; needed one. Leave others out, as with "
        f"--exclude {pattern}, or fill this photo alone with the file of its mask"
    )


def _counted(paths: Sequence[Path], what: str) -> str:
    shown = ", ".join(str(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} {what}{'s' * (len(paths) > 1)} ({shown}{more})"
