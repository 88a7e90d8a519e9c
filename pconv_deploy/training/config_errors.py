"""Errors in settings, with each setting named as users write it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec


def explained(
    error: str, settings: Mapping[str, Any], kind: Any, *, source: str, set_by_hand: Sequence[str]
) -> str:
    """Name the setting as users write it, and its value; msgspec names it `$.data.size`.

    Args:
        error: msgspec's.
        settings: what was to be converted.
        kind: to which class.
        source: of the settings.
        set_by_hand: keys that were given as `--set key=value`.
    """
    reason, _, place = error.partition(" - at `$")
    place = place.removeprefix(".").rstrip("`")
    by_hand = any(place == key or place.startswith((f"{key}.", f"{key}[")) for key in set_by_hand)
    where = f"{'--set ' if by_hand else f'{source}: '}{place}: "
    if place and reason.startswith("Object missing required field"):
        return f"{where}{reason.rpartition(' ')[2].strip('`')} is missing"
    if not place or not reason.startswith(("Expected ", "Invalid enum value ")):
        return f"{source}: {reason}"
    if reason.startswith("Invalid enum value "):
        reason += f"; needed one of {', '.join(_choices(place, kind))}"
    return f"{where}found {json.dumps(_value(place, settings))}. {reason}"


def _value(place: str, settings: Any) -> Any:
    for key, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        settings = settings[int(number) if number else key]
    return settings


def _choices(place: str, kind: Any) -> tuple[str, ...]:
    """The values of a setting that is a Literal."""
    for key in re.findall(r"[^.\[\]\d][^.\[\]]*", place):
        while get_args(kind):  # of phases, the first one's class
            kind = get_args(kind)[0]
        kind = {field.name: field.type for field in msgspec.structs.fields(kind)}[key]
    return get_args(kind)
