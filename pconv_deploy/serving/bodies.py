"""Bodies of requests, read with bounds on their size, their time and the memory of all of them."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pconv_deploy.serving.errors import ClientGoneError, RequestError
from pconv_deploy.serving.fill import Upload
from pconv_deploy.serving.fill_fields import FIELDS
from pconv_deploy.serving.options import MIB

# A client has this long, and after it must have sent so much of its body a second.
_GRACE, _SLOWEST = 20.0, 16 * 1024
_MAX_FIELD = 1024  # bytes of an option's text
_MULTIPART_OVERHEAD = 64 * 1024


class Bodies:
    """Reads the bodies of one server's requests.

    Args:
        max_body: bytes of one.
        max_held: bytes of all that are held at once; None: of eight of the largest.
    """

    def __init__(self, max_body: int, max_held: int | None = None) -> None:
        self._max_body = max_body
        self._max_held = max_held or 8 * max_body
        self._held = 0

    @asynccontextmanager
    async def whole(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted as held until the block is left.

        Raises:
            RequestError: 413 too long, 408 too slow, 503 too many at once.
            ClientGoneError: the client left.
        """
        async with self._counted(request) as chunks:
            yield b"".join([chunk async for chunk in chunks])

    @asynccontextmanager
    async def form(
        self, request: Request
    ) -> AsyncIterator[tuple[dict[str, Upload], dict[str, str]]]:
        """The files and the text fields of a multipart body; otherwise as `whole`.

        Raises:
            RequestError: 400 malformed, 415 another type; and as `whole`.
        """
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "multipart/form-data":
            raise RequestError(415, f"found content type {kind[:80]!r}; needed multipart/form-data")
        async with self._counted(request) as chunks:
            parser = _InMemory(
                request.headers,
                chunks,
                max_files=2,
                max_fields=len(FIELDS),
                max_part_size=_MAX_FIELD,
            )
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise RequestError(
                    400, f"the multipart body is malformed: {error.message}"
                ) from error
            except (ValueError, LookupError) as error:  # of its headers' text
                raise RequestError(400, f"the multipart body is malformed: {error}") from error
            files: dict[str, Upload] = {}
            fields: dict[str, str] = {}
            try:
                for name, value in form.multi_items():
                    if name in files or name in fields:
                        raise RequestError(400, f"found {name[:80]!r} twice")
                    if isinstance(value, UploadFile):
                        files[name] = Upload(value.filename or "", await value.read())
                    else:
                        fields[name] = value
            finally:
                await form.close()
            yield files, fields

    @asynccontextmanager
    async def _counted(self, request: Request) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise RequestError(415, f"found content encoding {encoding[:80]!r}; needed none")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:20]) > self._max_body:
            await self._refuse_length(request)
        held = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal held
            begun = time.monotonic()
            stream = request.stream()
            while True:
                deadline = begun + _GRACE + held / _SLOWEST
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        chunk = await anext(stream, None)
                except TimeoutError:
                    raise RequestError(
                        408, f"the body came too slowly: {held} bytes in {_GRACE:.0f} s"
                    ) from None
                except ClientDisconnect:
                    raise ClientGoneError from None
                if chunk is None:
                    return
                if held + len(chunk) > self._max_body:
                    await self._refuse_length(request)
                if self._held + len(chunk) > self._max_held:
                    raise RequestError(503, "too many large requests at once", retry_after=1)
                held += len(chunk)
                self._held += len(chunk)
                yield chunk

        try:
            yield chunks()
        finally:
            self._held -= held

    async def _refuse_length(self, request: Request) -> None:
        """Answer 413; what the client still sends is thrown away, so that it reads the answer."""
        thrown_away = 0
        # RuntimeError: there is no more of it.
        with suppress(TimeoutError, ClientDisconnect, RuntimeError):
            async with asyncio.timeout(5):
                async for chunk in request.stream():
                    thrown_away += len(chunk)
                    if thrown_away > 2 * self._max_body:
                        break
        raise RequestError(
            413,
            f"the body is longer than the {self._max_body / MIB:g} MiB that are accepted; see "
            "--max-body-mib",
        )


class _InMemory(MultiPartParser):
    """Keeps files in memory: `Bodies` bounds it, and photos are no business of the disk.

    A body that is cut off is refused: its last part would be missing, and nobody told.
    """

    spool_max_size = 1 << 40
    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._ended:
            await form.close()
            for file in self._files_to_close_on_error:  # of parts that did not end, too
                file.close()
            raise MultiPartException("it is cut off")
        return form
