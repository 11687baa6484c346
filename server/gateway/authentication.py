"""Who is calling: Flower's signed timestamp, checked before a single byte of a body is read.

A SuperNode signs the time of each request, and nothing else of it. SuperLink accepts such a signature for any request
within five minutes; here it counts once (`used`). An unmodified SuperNode does not notice, since it signs every
attempt anew, retries included.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from server.gateway.refusals import Refused

__all__ = ["Headers", "Signed", "Sites", "fingerprint_of", "signed_by"]

Headers = Sequence[tuple[bytes, bytes]]

_NAMES = tuple(
    each.lower().encode()
    for each in (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
)
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_EARLIEST = timedelta(seconds=-SYSTEM_TIME_TOLERANCE)
_LATEST = timedelta(seconds=TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
_LARGEST = 10_000_000  # bytes of sites.json


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A caller whose signature is good.

    Attributes:
        key: public key of the node, in PEM form. stamp: the time that it signed.
        expires: when SuperLink stops accepting this signature.
        headers: what to pass on to SuperLink.
    """

    key: bytes
    stamp: str
    expires: datetime
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def fingerprint(self) -> str:
        """Of the key, for logs."""
        return fingerprint_of(self.key)


def fingerprint_of(key: bytes) -> str:
    """The first 16 hexadecimal digits of a key's SHA-256."""
    return sha256(key).hexdigest()[:16]


def signed_by(headers: Headers, *, now: datetime, registered: Collection[bytes]) -> Signed:
    """Who signed these headers; cheap checks first, so that a stranger costs no elliptic curve.

    Raises:
        Refused: no signature, or not exactly one; a key that is not registered; outside the window; a bad signature.
    """
    found = [(name, value) for name, value in headers if name in _NAMES]
    if sorted(name for name, _ in found) != sorted(_NAMES):
        raise Refused(401, "no-signature")
    key64, stamp, signature64 = (dict(found)[name] for name in _NAMES)
    key = _decoded(key64)
    if key not in registered:
        raise Refused(401, "unknown-key")
    signed_at = _time_of(stamp)
    if not _EARLIEST < now - signed_at < _LATEST:
        raise Refused(401, "wrong-time")
    try:
        _public_key(key).verify(_decoded(signature64), stamp, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise Refused(401, "bad-signature") from None
    passed = tuple(zip(_NAMES, (key64, stamp, signature64), strict=True))
    return Signed(key=key, stamp=stamp.decode(), expires=signed_at + _LATEST, headers=passed)


def _decoded(value: bytes) -> bytes:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise Refused(401, "no-signature") from None
    if base64.b64encode(decoded) != value:
        raise Refused(401, "no-signature")
    return decoded


def _time_of(stamp: bytes) -> datetime:
    if _TIME.fullmatch(stamp) is None:
        raise Refused(401, "wrong-time")
    try:
        return datetime.fromisoformat(stamp.decode())
    except ValueError:
        raise Refused(401, "wrong-time") from None


@lru_cache(maxsize=10_000)
def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    key = load_pem_public_key(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic curve's key")
    return key


class Sites:
    """The public keys of `sites.json`, read again whenever the file has changed; without a file there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._keys: frozenset[bytes] = frozenset()

    def keys(self) -> frozenset[bytes]:
        """Who may come, now. Raises Refused, to be tried again, where the file cannot be read."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, frozenset()
            return self._keys
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen != self._seen:
            self._keys = self._read()
            self._seen = seen
        return self._keys

    def _read(self) -> frozenset[bytes]:
        self._seen = None  # nobody comes by what an earlier file said
        try:
            with self._path.open("rb") as file:
                names = json.loads(file.read(_LARGEST))
            return frozenset(base64.b64decode(key, validate=True) for key in names.values())
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            raise Refused(503, "sites-unreadable") from None
