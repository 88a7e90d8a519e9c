"""Error messages for settings, with each setting named as users write it."""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import msgspec


def explain(
    error: str, settings: Mapping[str, Any], kind: Any, *, source: str, overridden: Sequence[str]
) -> str:
    """Rewrite msgspec's message: `$.data.size` becomes `data.size`, with the value found.

    `kind` is the Struct class, `source` the preset or file, `overridden` the keys given by `--set`.
    """
    reason, _, place = error.partition(" - at `$")
    place = place.removeprefix(".").rstrip("`")
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", reason, re.DOTALL):
        fields = [field.name for field in msgspec.structs.fields(_struct(_type_at(place, kind)))]
        path = f"{place}.{unknown[1]}".removeprefix(".")
        return f"{source}: unknown key {path}{suggestion(unknown[1], fields)}"
    by_hand = any(place == key or place.startswith((f"{key}.", f"{key}[")) for key in overridden)
    where = f"{'--set ' if by_hand else f'{source}: '}{place}: "
    if place and reason.startswith("Object missing required field"):
        return f"{where}{reason.rpartition(' ')[2].strip('`')} is missing"
    if not place or not reason.startswith(("Expected ", "Invalid enum value ")):
        return f"{source}: {reason}"
    if reason.startswith("Invalid enum value "):
        reason += f"; needed one of {', '.join(get_args(_type_at(place, kind)))}"
    return f"{where}found {json.dumps(_value(place, settings))}. {reason}"


def suggestion(word: str, known: Collection[str]) -> str:
    """Return " (did you mean ...?)" with the closest known name; empty if none is close."""
    if word in ("steps", "learning_rate", "schedule"):
        return ' (a key of phases: --set "phases=[{steps=100, learning_rate=1e-3}]")'
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def _value(place: str, settings: Any) -> Any:
    for key, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        settings = settings[int(number) if number else key]
    return settings


def _type_at(place: str, kind: Any) -> Any:
    """Return the annotation of the setting at a place such as `phases[0].schedule`."""
    for key in re.findall(r"[^.\[\]\d][^.\[\]]*", place):
        kind = {field.name: field.type for field in msgspec.structs.fields(_struct(kind))}[key]
    return kind


def _struct(kind: Any) -> Any:
    """Return the Struct class in an annotation such as `Annotated[tuple[Phase, ...], ...]`."""
    while get_args(kind):
        kind = get_args(kind)[0]
    return kind
