"""Requests against botocore's service models: types, required members, lengths, enums, patterns.

botocore itself checks only types, required members and minimum lengths before it sends, so a
client can send what AWS refuses. This is the refusing half.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape


class Refused(Exception):
    """The service's "no": becomes an error answer with this code, status and message."""

    def __init__(self, code: str, message: str = "", status: int = 400, **extra: Any) -> None:
        super().__init__(message or code)
        self.code, self.message, self.status, self.extra = code, message or code, status, extra


@lru_cache
def service_model(name: str) -> ServiceModel:
    """botocore's model of a service, by its endpoint name such as `rekognition`."""
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


def operation_model(service: str, operation: str) -> OperationModel:
    model = service_model(service)
    if operation not in model.operation_names:
        raise Refused("UnknownOperationException", f"{service} has no operation {operation}")
    return model.operation_model(operation)


# Java's character classes in botocore's patterns, close enough for the ids a client sends.
_JAVA = {
    r"\p{L}": r"\w", r"\p{M}": r"\u0300-\u036f", r"\p{N}": r"\d", r"\p{Z}": r"\s",
    r"\p{P}": r"!-/:-@\[-`{-~", r"\p{S}": r"$+<->^`|~", r"\p{Alnum}": "A-Za-z0-9",
    r"\p{Print}": r"\x20-\x7e", r"\p{ASCII}": r"\x00-\x7f", r"\P{C}": r"[^\x00-\x1f\x7f]",
    r"\z": r"\Z",
}  # fmt: skip


@lru_cache
def _pattern(text: str) -> re.Pattern[str] | None:
    parts, inside, place = [], False, 0
    while place < len(text):
        java = next((j for j in _JAVA if text.startswith(j, place)), None)
        if java is not None:
            bare = not inside and java.startswith(r"\p")
            parts.append(f"[{_JAVA[java]}]" if bare else _JAVA[java])
            place += len(java)
            continue
        step = 2 if text[place] == "\\" else 1
        inside = (inside or text[place] == "[") and text[place] != "]"
        parts.append(text[place : place + step])
        place += step
    try:
        return re.compile("".join(parts))
    except re.error:
        return None


def read(shape: Shape, value: Any, path: str = "") -> Any:
    """The value as Python (blobs decoded), or `Refused` the way AWS words a validation error."""
    reader = {
        "structure": _structure, "list": _list, "map": _map, "string": _string, "blob": _blob,
        "integer": _number, "long": _number, "float": _number, "double": _number,
        "boolean": _boolean, "timestamp": _timestamp,
    }[shape.type_name]  # fmt: skip
    return reader(shape, value, path)


def _invalid(path: str, constraint: str) -> Refused:
    return Refused(
        "ValidationException",
        f"1 validation error detected: Value at '{path}' failed to satisfy constraint: "
        f"Member must {constraint}",
    )


def _wrong(path: str, value: Any, wanted: str) -> Refused:
    kind = type(value).__name__
    return Refused("SerializationException", f"{path or 'body'}: {kind} cannot be a {wanted}")


def _structure(shape: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "structure")
    for name in shape.required_members:
        if value.get(name) is None:
            raise _invalid(f"{path}.{name}".lstrip("."), "not be null")
    unknown = set(value) - set(shape.members)
    if unknown:
        raise Refused("ValidationException", f"unknown members {sorted(unknown)} at '{path}'")
    if shape.is_tagged_union and len(value) != 1:
        raise Refused("ValidationException", f"exactly one member is allowed at '{path}'")
    return {
        name: read(shape.members[name], member, f"{path}.{name}".lstrip("."))
        for name, member in value.items()
        if member is not None
    }


def _length(shape: Shape, value: Any, path: str) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and len(value) < low:
        raise _invalid(path, f"have length greater than or equal to {low}")
    if high is not None and len(value) > high:
        raise _invalid(path, f"have length less than or equal to {high}")


def _list(shape: Any, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(path, value, "list")
    _length(shape, value, path)
    return [read(shape.member, item, f"{path}.{i + 1}.member") for i, item in enumerate(value)]


def _map(shape: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "map")
    _length(shape, value, path)
    return {
        read(shape.key, key, f"{path}.key"): read(shape.value, item, f"{path}.{key}.member")
        for key, item in value.items()
    }


def _string(shape: Any, value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "string")
    _length(shape, value, path)
    if shape.enum and value not in shape.enum:
        raise _invalid(path, f"satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and (compiled := _pattern(pattern)) and not compiled.fullmatch(value):
        raise _invalid(path, f"satisfy regular expression pattern: {pattern}")
    return value


def _blob(shape: Any, value: Any, path: str) -> bytes:
    if isinstance(value, bytes):
        content = value
    elif isinstance(value, str):
        try:
            content = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise _wrong(path, value, "blob") from error
    else:
        raise _wrong(path, value, "blob")
    _length(shape, content, path)
    return content


def _number(shape: Shape, value: Any, path: str) -> float:
    whole = shape.type_name in ("integer", "long")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise _wrong(path, value, shape.type_name)
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < float(low):
        raise _invalid(path, f"have value greater than or equal to {low}")
    if high is not None and value > float(high):
        raise _invalid(path, f"have value less than or equal to {high}")
    return value


def _boolean(shape: Shape, value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, value, "boolean")
    return value


def _timestamp(shape: Shape, value: Any, path: str) -> Any:
    if not isinstance(value, int | float | str):
        raise _wrong(path, value, "timestamp")
    return value


def write(value: Any) -> Any:
    """A handler's Python value as AWS JSON: epoch seconds for times, base64 for bytes."""
    if isinstance(value, dict):
        return {key: write(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [write(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    return value
