"""Train and test: decided for each unit by a keyed hash of the unit itself, the same at every site.

Never by position in a file: removing one record would move the others between the parts, so a data set and its
neighbour would differ in more than one unit of the training part.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from study.contract import Data

__all__ = ["is_test", "record_identity", "train_mask", "unit_identity"]

_TAG = b"discreet split 1\0"


def is_test(key: str, identity: bytes, test_fraction: float) -> bool:
    """Does the unit with this identity belong to the test part?"""
    digest = hmac.new(key.encode(), _TAG + identity, hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") < test_fraction * 2.0**64


def train_mask(data: Data, identities: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Which units are in the training part, shape (units,)."""
    return np.array([not is_test(data.split_key, each, data.test_fraction) for each in identities], dtype=np.bool_)


def record_identity(features: npt.NDArray[np.float64], label: float) -> bytes:
    """Canonical bytes of a record: big-endian doubles in the frozen order, the label last; -0 is 0."""
    values = np.append(features, label) + 0.0
    return b"record\0" + struct.pack(f">{len(values)}d", *values)


def unit_identity(text: str) -> bytes:
    """Canonical bytes of a unit that a column names."""
    return b"unit\0" + text.encode()
