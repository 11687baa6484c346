"""Which units are for training and which for testing: a keyed hash of the unit itself, the same at every site.

Never by row position or by a draw over the rows: with those, removing one record moves others between the parts,
two data sets that differ by one unit differ by many in the training part, and the guarantee for "add or remove one
unit" no longer says what it says. With a hash of the unit alone, every other unit stays where it is; and two sites
that hold the same patient put the patient into the same part.

Every input of the hash starts with a tag of its own that names the format version, so that no two uses can meet.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from study.contract import FORMAT, Data

__all__ = ["part_of", "record_identities", "record_identity", "train_mask", "unit_identity"]

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float64]

_SPLIT = b"discreet split %d\0" % FORMAT
_RECORD = b"discreet record %d\0" % FORMAT
_UNIT = b"discreet unit %d\0" % FORMAT


def part_of(key: str, identity: bytes, test_fraction: float) -> Literal["train", "test"]:
    """Tell the part to which one unit belongs.

    HMAC-SHA-256 of the unit's identity; its first 64 bits, read as a fraction, below `test_fraction` is "test".

    Arguments:
        key: the study's split key; another key is another split.
        identity: of the unit, from `record_identity` or `unit_identity`.
        test_fraction: 0 .. 1; 0 puts everything into "train", 1 everything into "test".
    """
    code = hmac.digest(key.encode("utf-8"), _SPLIT + identity, "sha256")
    # Compared in whole numbers: 2^64 test_fraction is exact, a fraction of 64 bits would be rounded.
    return "test" if int.from_bytes(code[:8], "big") < test_fraction * 2.0**64 else "train"


def train_mask(data: Data, identities: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Which units are for training, shape (units,).

    **Guarantees**: an entry depends on the study and on its own identity alone.
    """
    parts = (part_of(data.split_key, each, data.test_fraction) for each in identities)
    return np.fromiter((part == "train" for part in parts), np.bool_, len(identities))


def record_identity(features: npt.NDArray[np.float64], label: float) -> bytes:
    """Canonical bytes of one record: what it is, wherever it stands.

    Arguments:
        features: raw and finite, in the study's frozen order, shape (d,).
        label: raw, or the class's number.
    """
    return record_identities(features[None, :], np.array([label], dtype=np.float64))[0]


def record_identities(features: npt.NDArray[np.float64], labels: Labels) -> list[bytes]:
    """`record_identity` of every row, shapes (N, d) and (N,).

    Big-endian IEEE 754 doubles, the label last; -0.0 becomes 0.0, as equal values are one record. Equal records
    have equal identities: they are separate units that share a part.
    """
    values = np.concatenate([features, labels[:, None]], axis=1, dtype=np.float64) + 0.0
    return [_RECORD + row.tobytes() for row in values.astype(">f8")]


def unit_identity(text: str) -> bytes:
    """Identity of a unit that a column names: the UTF-8 bytes of its text."""
    return _UNIT + text.encode("utf-8", "surrogatepass")
