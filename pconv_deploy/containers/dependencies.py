"""The packages that an engine needs at run time, as they are installed here."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pconv_deploy.errors import MissingRuntimeError

OURS = "pconv-deploy"
# Backends need these to build an engine and not to run it.
_BUILD_ONLY = frozenset({"onnx", "onnxscript", OURS})
_LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "THIRDPARTYNOTICE")
# CUDA's libraries: a slim image has none of them.
_IN_CONTAINERS = {"onnxruntime-gpu": "onnxruntime-gpu[cuda,cudnn]"}


def needed_distributions(extra: str) -> Mapping[str, Distribution]:
    """Return what has to be installed beside our own code to serve engines, by canonical name.

    Args:
        extra: of our package, for the engine's backend.

    Raises:
        MissingRuntimeError: one of them is not installed here, so its version is not known.
    """
    found: dict[str, Distribution] = {}
    own = (Requirement(line) for line in distribution(OURS).requires or ())
    roots = [
        Requirement(_IN_CONTAINERS.get(requirement.name, str(requirement)))
        for requirement in own
        if _applies(requirement, ("", "serve"))
        or (_applies(requirement, (extra,)) and requirement.name not in _BUILD_ONLY)
    ]
    _collect(roots, found, set(), extra)
    return dict(sorted(found.items()))


def _collect(
    requirements: Sequence[Requirement],
    found: dict[str, Distribution],
    seen: set[tuple[str, frozenset[str]]],
    extra: str,
) -> None:
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as error:
            requirement.marker = None  # with it, pip would install nothing
            raise MissingRuntimeError(
                f"{name} is not installed, so its version cannot be pinned: "
                f"pip install '{OURS}[{extra},serve]' '{requirement}'"
            ) from error
        further = (Requirement(line) for line in found[name].requires or ())
        extras = ("", *requirement.extras)
        _collect([one for one in further if _applies(one, extras)], found, seen, extra)


def _applies(requirement: Requirement, extras: Sequence[str]) -> bool:
    marker = requirement.marker
    if marker is None:
        return "" in extras
    return any(marker.evaluate({"extra": extra}) for extra in extras)


def licence_files(package: Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the package's licences and notices: a name for each, and where it is installed."""
    for file in package.files or ():
        in_metadata = file.parts[0].endswith(".dist-info") and "licenses" in file.parts
        # Some packages have them beside their code instead.
        if in_metadata or (len(file.parts) == 2 and file.name.upper().startswith(_LICENCES)):
            path = Path(str(package.locate_file(file)))
            if path.is_file():
                yield "_".join(file.parts[1:]).removeprefix("licenses_"), path
