"""The text format of protocol buffers, as far as a configuration needs it, without a schema."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union


@dataclass(frozen=True)
class Name:
    """The name of an enumeration's value, which is written bare."""

    text: str


Scalar: TypeAlias = str | bool | int | Name
Message: TypeAlias = Mapping[str, "Value"]
# A sequence is a repeated field.
Value: TypeAlias = Union[Scalar, Message, Sequence[Scalar], Sequence[Message]]  # noqa: UP007


def entries(mapping: Mapping[str, Scalar | Message]) -> list[Message]:
    """Write a map field as protocol buffers do: a repeated field of keys and values."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def to_text(message: Message) -> str:
    """Write `message`, its fields in their order; a repeated field without elements is left out."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for field, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(field, value)
        elif isinstance(value, str) or not isinstance(value, Sequence):
            yield f"{field}: {_scalar(value)}"
        else:
            scalars = [_scalar(one) for one in value if not isinstance(one, Mapping)]
            if scalars:
                yield f"{field}: [{', '.join(scalars)}]"
            for one in value:
                if isinstance(one, Mapping):
                    yield from _block(field, one)


def _block(field: str, message: Message) -> Iterator[str]:
    if not message:
        yield f"{field} {{}}"
        return
    yield f"{field} {{"
    for line in _lines(message):
        yield f"  {line}"
    yield "}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Bytes of UTF-8, in octal where they are no plain letter: every parser reads these alike."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
        for byte in plain.encode(errors="replace")
    )
