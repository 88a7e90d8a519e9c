"""Check whether an engine runs on this machine, with the runtime that is installed.

Under another release of its runtime, or on another kind of processor, an engine first fills its
golden case; if the result agrees, that is recorded beside the engine, where that can be written.
"""

import contextlib
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pconv_deploy.contract import Sha256
from pconv_deploy.engines import processor
from pconv_deploy.engines.base import Backend, Runtime
from pconv_deploy.engines.golden import Difference, difference, read_case, run_case
from pconv_deploy.engines.integrity import read_kept
from pconv_deploy.engines.manifest import (
    GOLDEN,
    PROOFS,
    Manifest,
    put_weights_in,
    rebuild,
)
from pconv_deploy.engines.sessions import Session
from pconv_deploy.engines.windows.entry import compare_entries
from pconv_deploy.engines.windows.session import WindowSession
from pconv_deploy.errors import NOTE, EngineError, InputError, ParityError
from pconv_deploy.files import read_json_bytes

_LOG = logging.getLogger(__name__)
_MOST = 64  # proofs that are kept
# Any of these multiplies eight bits at a time; without, int8 is no faster than fp32.
_FOR_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an engine has proved itself; engine: hash of its manifest."""

    engine: Sha256
    runtime: Runtime
    machine: str
    processor: tuple[str, ...] | None


class _Proofs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of proofs.json."""

    format: Literal[1] = 1
    proofs: Annotated[tuple[Proof, ...], Meta(max_length=_MOST)]


def check_machine(folder: Path, manifest: Manifest, backend: Backend) -> None:
    """Refuse an engine that what is installed here cannot open at all.

    Raises:
        EngineError: a plan for another machine or release, or an engine without weights.
    """
    built = manifest.built_with
    if manifest.engine.weights_missing:
        raise EngineError(
            f"{folder} was built without its weights", put_weights_in(manifest, folder)
        )
    if not backend.traits.portable and built.machine != processor.machine():
        raise _built_on_another(folder, manifest)
    if why := backend.why_not_open(built.runtime(), manifest.engine):
        raise _built_with_another(folder, manifest, backend, why)


def required_proof(folder: Path, manifest: Manifest, backend: Backend) -> Proof | None:
    """Return what an engine must prove before its first fill here; None if nothing, or if it has.

    Raises:
        EngineError: it has no golden case to prove itself by.
    """
    built = manifest.built_with
    why = backend.why_unproved(built.runtime())
    another_machine = built.machine != processor.machine()
    if not (why or another_machine or any(_other_processor(manifest))):
        return None
    if manifest.golden is None:
        if not backend.traits.portable or not (why or another_machine):
            return None  # `check_machine` decides
        if another_machine:
            raise _built_on_another(folder, manifest)
        raise _built_with_another(folder, manifest, backend, why or "")
    here = Proof(
        engine=_identity(manifest),
        runtime=backend.runtime(),
        machine=processor.machine(),
        processor=processor.instruction_sets(),
    )
    return None if here in _read(folder) else here


def prove(folder: Path, manifest: Manifest, session: Session, here: Proof) -> None:
    """Let an engine fill its golden case, and record the proof beside it where that is possible.

    Raises:
        EngineError: the result differs too much from the one that is kept, or the case is gone.
    """
    allowed = manifest.golden
    assert allowed is not None
    where = "; ".join(_what_differs(manifest, here))
    whole = session.whole if isinstance(session, WindowSession) else session
    found = _measured(folder, manifest, whole, where)
    if not found.within(allowed):
        raise EngineError(
            f"{folder} computes something else here than when it was accepted ({where}): golden "
            f"case {found.describe(allowed)}",
            rebuild(manifest, folder),
        )
    if isinstance(session, WindowSession):
        try:
            compare_entries(session, manifest.contract, allowed)
        except (EngineError, ParityError) as error:
            raise EngineError(
                f"{folder} cannot prove itself here ({where}): {error}", rebuild(manifest, folder)
            ) from error
    slow = manifest.precision == "int8" and not _FOR_INT8.intersection(here.processor or _FOR_INT8)
    _LOG.log(
        NOTE,
        "%s has proved itself here (%s): golden case %s%s",
        folder,
        where,
        found.describe(allowed),
        "; this processor has no instructions for int8, which may be slow" if slow else "",
    )
    _write(folder, here)


def describe_proofs(folder: Path, manifest: Manifest) -> list[str]:
    """Describe where an engine has proved itself, one phrase for each place."""
    engine = _identity(manifest)
    own = [proof for proof in _read(folder) if proof.engine == engine]
    return [f"{proof.runtime.describe()} on {proof.machine}" for proof in own]


def _identity(manifest: Manifest) -> str:
    """Return the hash of a manifest: its files' hashes and what its golden case allows."""
    return hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()


def _measured(folder: Path, manifest: Manifest, session: Session, where: str) -> Difference:
    png = read_kept(folder, GOLDEN, manifest)
    try:
        case = read_case(png)
        filled = run_case(session, manifest.contract, manifest.engine, case.image, case.hole)
    except ValueError as error:
        raise EngineError(
            f"{folder / GOLDEN} is no golden case: {error}", rebuild(manifest, folder)
        ) from error
    except (EngineError, ParityError) as error:
        raise EngineError(
            f"{folder} cannot prove itself here ({where}): {error}", rebuild(manifest, folder)
        ) from error
    return difference(case, filled)


def _other_processor(manifest: Manifest) -> Iterator[str]:
    """Describe instruction sets that only one of the two processors has, if both are known."""
    there, here = manifest.built_with.processor, processor.instruction_sets()
    if manifest.built_with.device != "cpu" or there is None or here is None:
        return
    for how, names in (("with", set(here) - set(there)), ("without", set(there) - set(here))):
        if names:
            yield f"a processor {how} {', '.join(sorted(names))}"


def _what_differs(manifest: Manifest, here: Proof) -> Iterator[str]:
    built = manifest.built_with
    if here.runtime != built.runtime():
        yield f"{here.runtime.describe()}, built with {built.runtime().describe()}"
    if here.machine != built.machine:
        yield f"{here.machine}, built on {built.machine}"
    yield from _other_processor(manifest)


def _built_on_another(folder: Path, manifest: Manifest) -> EngineError:
    return EngineError(
        f"{folder} was built on {manifest.built_with.machine}; this machine is "
        f"{processor.machine()}",
        rebuild(manifest, folder),
    )


def _built_with_another(
    folder: Path, manifest: Manifest, backend: Backend, why: str
) -> EngineError:
    return EngineError(
        f"{folder} was built with {manifest.built_with.runtime().describe()}; this machine has "
        f"{backend.runtime().describe()}: {why}",
        rebuild(manifest, folder),
    )


def _read(folder: Path) -> tuple[Proof, ...]:
    """What is in proofs.json; anything that we did not write proves nothing."""
    path = folder / PROOFS
    if path.is_symlink() or not path.is_file():  # a FIFO would block
        return ()
    try:
        return msgspec.json.decode(read_json_bytes(path), type=_Proofs).proofs
    except (InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()


def _write(folder: Path, proof: Proof) -> None:
    """Add a proof in one step, if the folder can be written; who writes last wins.

    By the folder's descriptor: a folder that is being replaced must not come into being again.
    """
    content = msgspec.json.encode(_Proofs(proofs=(*_read(folder), proof)[-_MOST:]))
    partial = f".{uuid.uuid4().hex}.partial.json"
    with contextlib.suppress(OSError):  # read-only: the proof is made again at every start
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            with open(os.open(partial, flags, 0o666, dir_fd=descriptor), "wb") as stream:
                stream.write(content)
            os.replace(partial, PROOFS, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=descriptor)
            os.close(descriptor)
