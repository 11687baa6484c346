"""One way to write a message as bytes: a canonical JSON head and arrays behind it.

    4 bytes, big-endian: length of the head | head: RFC 8785 JSON | body: safetensors

Reading refuses everything that writing would not have produced: other spellings of the head, other array types,
trailing bytes. Nothing that is read is executed or unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from privacy.errors import ProtocolError
from study.canonical import canonical_json, parse_canonical

__all__ = ["Arrays", "decode", "encode"]

Arrays = Mapping[str, npt.NDArray[Any]]

_LENGTH = struct.Struct(">I")
_DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")


def encode(head: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The bytes of a message. Equal arguments give equal bytes."""
    text = canonical_json(head)
    body = save(
        {
            name: _checked(np.ascontiguousarray(value).reshape(value.shape))
            for name, value in arrays.items()
        }
    )
    return _LENGTH.pack(len(text)) + text + body


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Head and arrays of a message. Raises ProtocolError for bytes that `encode` does not write."""
    if len(data) < _LENGTH.size:
        raise ProtocolError(
            f"Expected a message of at least {_LENGTH.size} bytes, found {len(data)}"
        )
    (length,) = _LENGTH.unpack_from(data)
    text, body = data[_LENGTH.size : _LENGTH.size + length], data[_LENGTH.size + length :]
    if len(text) < length:
        raise ProtocolError(f"Expected a head of {length} bytes, found {len(text)}")
    head = parse_canonical(text)
    if not isinstance(head, dict):
        raise ProtocolError("Expected a head that is an object")
    try:
        arrays = {name: _checked(value) for name, value in load(body).items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError("Expected a body in safetensors form") from error
    if encode(head, arrays) != data:
        raise ProtocolError("Expected a message as it would be written, found another spelling")
    return head, arrays


def _checked(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if value.dtype.name not in _DTYPES:
        raise ProtocolError(f"Expected an array of {', '.join(_DTYPES)}, found {value.dtype.name}")
    return value
