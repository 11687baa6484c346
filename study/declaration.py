"""A declaration: the study that everybody runs, with nothing left open. Its hash is the study's identity.

It holds the frozen study with every default filled in, the number of sites, the resolved noise multiplier and a
nonce, so that a rerun is a new study with a budget of its own. Sites never take a constant from a message: they
take the declaration, check that its noise is enough (`study/guarantee.py`), and derive the rest themselves.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

from privacy.errors import ProtocolError, StudyError
from privacy.signing import PROTOCOL
from study.canonical import canonical_json, digest, parse_canonical
from study.contract import MASKED, Study, tolerance_hint
from study.parsing import study_from_values, study_to_values
from study.settings import ImpossibleSettingError

__all__ = ["Declaration"]

_MOST_SITES = 10_000


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One run of one study.

    Attributes:
        study: frozen: its features are names.
        sites: n, on the roster.
        noise_multiplier: z of the study's main sums; None with trust `unsafe`.
        nonce: 32 hexadecimal digits, new for every run.
        roster: hash of the roster whose sites these are, 64 hexadecimal digits; None where nobody has to be known by
            a key: a forecast, or a study whose sums are not masked.
    """

    study: Study
    sites: int
    noise_multiplier: float | None
    nonce: str
    roster: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.study.data.features, str):
            raise ImpossibleSettingError("data.features", expected="names of columns", actual="all")
        self._check_sites()
        self._check_noise()
        if not re.fullmatch("[0-9a-f]{32}", self.nonce):
            raise StudyError("Expected a nonce of 32 hexadecimal digits")
        if self.roster is not None and not re.fullmatch("[0-9a-f]{64}", self.roster):
            raise StudyError("Expected the hash of a roster, 64 hexadecimal digits")

    def _check_sites(self) -> None:
        privacy, least = self.study.privacy, self.study.sites.minimum
        if not least <= self.sites <= _MOST_SITES:
            bound = (
                f"at least sites.minimum = {least}"
                if self.sites < least
                else f"at most {_MOST_SITES}"
            )
            raise StudyError(
                f"Expected {bound} sites, found {self.sites}",
                hint="other sites, or another sites.minimum",
            )
        if self.study.data.sites_per_unit > self.sites:
            raise StudyError(
                f"Expected data.sites_per_unit at most {self.sites}, the number of sites"
            )
        if privacy.trust != "unsafe" and self.sites <= privacy.max_dropouts:
            raise StudyError(f"Expected more sites than max_dropouts, found {self.sites}")
        tolerated = privacy.max_colluding + 2 * privacy.max_dropouts
        if privacy.trust in MASKED and self.sites <= tolerated:
            raise StudyError(
                f"Expected more than {tolerated} sites, found {self.sites}",
                hint=tolerance_hint(privacy),
            )

    def _check_noise(self) -> None:
        privacy = self.study.privacy
        if (self.noise_multiplier is None) != (privacy.trust == "unsafe"):
            raise StudyError("Expected a noise multiplier, except for a study without privacy")
        if self.noise_multiplier is not None and not 0 < self.noise_multiplier <= 1e7:
            raise StudyError(f"Expected noise_multiplier={self.noise_multiplier} > 0")
        if privacy.noise_multiplier not in (None, self.noise_multiplier):
            raise StudyError(
                "Expected the noise multiplier that the study itself gives, found another"
            )

    def to_values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {
            "protocol": PROTOCOL, "study": study_to_values(self.study), "sites": self.sites, "nonce": self.nonce,
            "roster": self.roster,
        }  # fmt: skip
        return (
            values
            if self.noise_multiplier is None
            else values | {"noise_multiplier": self.noise_multiplier}
        )

    @functools.cached_property
    def content(self) -> bytes:
        """The canonical form."""
        return canonical_json(self.to_values())

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical form, hexadecimal: the study's identity."""
        return digest(self.to_values())

    @staticmethod
    def from_bytes(content: bytes) -> Declaration:
        """The declaration of a canonical form; any other spelling, key or value is refused.

        Raises:
            ProtocolError: whatever is wrong, since the bytes came from somebody else.
        """
        return _parsed(content)

    def with_study(self, study: Study) -> Declaration:
        """The same run with another study (its hash is another)."""
        return replace(self, study=study)


@functools.lru_cache(maxsize=16)
def _parsed(content: bytes) -> Declaration:
    values = parse_canonical(content)
    keys = {"protocol", "study", "sites", "nonce", "roster"}
    if not isinstance(values, dict) or set(values) - {"noise_multiplier"} != keys:
        raise ProtocolError(f"Expected a declaration with {', '.join(sorted(keys))}")
    if values["protocol"] != PROTOCOL or type(values["protocol"]) is not int:
        raise ProtocolError(f"Expected protocol {PROTOCOL}")
    try:
        if type(values["sites"]) is not int or not isinstance(values["nonce"], str):
            raise ProtocolError("Expected a number of sites and a nonce")
        if values["roster"] is not None and not isinstance(values["roster"], str):
            raise ProtocolError("Expected the hash of a roster, or none")
        noise = values.get("noise_multiplier")
        if noise is not None and type(noise) not in (int, float):
            raise ProtocolError("Expected a number as noise multiplier")
        declaration = Declaration(
            study=study_from_values(values["study"]), sites=values["sites"],
            noise_multiplier=None if noise is None else float(noise), nonce=values["nonce"],
            roster=values["roster"],
        )  # fmt: skip
    except (StudyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"Expected a valid study: {error}") from error
    if declaration.content != content:
        raise ProtocolError("Expected every default filled in, found a shorter form")
    return declaration
