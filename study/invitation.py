"""What a coordinator hands to its sites, once: where it is, which certificate is its, and whose instructions to obey.

None of it is secret, all of it has to be true: whoever could replace it would be the coordinator. So a site pins it by
its fingerprint, which people compare by telephone, as that of the roster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privacy.errors import ProtocolError
from privacy.signing import fingerprint
from study.canonical import canonical_json, parse_canonical

__all__ = ["Invitation"]

_VERSION = 1
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):[0-9]{1,5}")
_LONGEST = 100_000


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """One coordinator.

    Attributes:
        address: host and port, such as "federation.example.org:9443".
        certificate: of its authority, PEM. key: public key that signs its instructions, hexadecimal.
    """

    address: str
    certificate: str
    key: str

    def __post_init__(self) -> None:
        if not all(isinstance(each, str) for each in (self.address, self.certificate, self.key)):
            raise ProtocolError("Expected texts in an invitation")
        if (
            not _ADDRESS.fullmatch(self.address)
            or not 0 < int(self.address.rpartition(":")[2]) < 65536
        ):
            raise ProtocolError("Expected an address such as federation.example.org:9443")
        if not self.certificate.startswith("-----BEGIN CERTIFICATE-----\n"):
            raise ProtocolError("Expected a certificate in PEM form")
        if not re.fullmatch("[0-9a-f]{64}", self.key):
            raise ProtocolError("Expected a public key of 64 hexadecimal digits")

    @property
    def fingerprint(self) -> str:
        """What people compare."""
        return fingerprint(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of its file."""
        return canonical_json(
            {"version": _VERSION, "address": self.address, "certificate": self.certificate, "key": self.key}
        )  # fmt: skip

    @staticmethod
    def from_bytes(content: bytes) -> Invitation:
        """The invitation of a file. Raises ProtocolError for what `to_bytes` does not write."""
        values = parse_canonical(content[:_LONGEST])
        names = {"version", "address", "certificate", "key"}
        if not isinstance(values, dict) or set(values) != names:
            raise ProtocolError(f"Expected an invitation with {', '.join(sorted(names))}")
        if values["version"] != _VERSION or type(values["version"]) is not int:
            raise ProtocolError(f"Expected an invitation of version {_VERSION}")
        return Invitation(**{name: values[name] for name in names - {"version"}})
