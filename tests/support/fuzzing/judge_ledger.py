"""What a valid ledger entry, receipt and history is, by tables and rules of its own."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fuzzing.judge_json import NotCanonicalError, canonical_value, same
from fuzzing.judge_study import BIG, number, one_of, text, truth, whole

Holds = Callable[[Any], bool]


def name(value: Any) -> bool:
    return text(value) and 0 < len(value) <= 200 and value.isprintable()


def hexadecimal(digits: int) -> Holds:
    return lambda value: text(value) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None


def optional(holds: Holds) -> Holds:
    return lambda value: value is None or holds(value)


def shaped(fields: Mapping[str, Holds], *, also: Holds = lambda _value: True) -> Holds:
    """An object with exactly these keys, each of which holds, and that holds as a whole."""

    def holds(value: Any) -> bool:
        fits = isinstance(value, dict) and set(value) == set(fields)
        return fits and all(fields[key](value[key]) for key in fields) and also(value)

    return holds


def listed(holds: Holds, *, least: int, most: int = 10**9) -> Holds:
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(holds, value))
    )


hash_ = hexadecimal(64)
finite = number(-BIG, BIG)
index = whole(0, 2**31 - 1)


def sites_in_order(value: Any) -> bool:
    """Numbers of sites on a roster, ascending, each once, at least one."""
    numbered = listed(whole(1, 1000), least=1)(value)
    return numbered and all(one < two for one, two in itertools.pairwise(value))


cap = shaped(
    {
        "epsilon": number(0, 700, above=True), "delta": number(0, 1, above=True, below=True),
        "orders": listed(number(1, 1e6, above=True), least=1, most=8),
    },
    also=lambda value: value["orders"] == sorted(set(value["orders"])),
)  # fmt: skip

terms = shaped(
    {
        "version": lambda value: type(value) is int and value == 1,
        "adjacency": one_of("add-or-remove-one", "replace-one"), "unit": name, "part": one_of("train", "test", "all"),
        "dimension": whole(), "clipping_norm": finite, "sites_per_unit": whole(1),
        "sampling_rate": number(0, 1, above=True),
        "sites": whole(1), "colluding": whole(0), "survivors": whole(1), "threshold": whole(1), "quorum": whole(1),
        "shares": whole(1),
        "noise_multiplier": number(1e-6, 1e15), "base": whole(), "stretch": whole(), "scale": finite,
        "beta": number(0, BIG),
        "slack": finite, "unlikely": number(0, 1, below=True), "bits": whole(),
    },
    also=lambda value: max(value["threshold"], value["quorum"]) <= value["survivors"] <= value["sites"]
    and value["sites"] >= value["sites_per_unit"]
    and value["shares"] <= max(1, value["survivors"] - value["colluding"])
        and value["beta"] * value["sites_per_unit"] < 1,
)  # fmt: skip
"""As entries hold them; whether they are those of a mechanism is asked when a study is approved: `sound`."""

declared_sum = shaped({"function": name, "count": whole(1, 2**31), "terms": optional(terms)})

BODIES: Mapping[str, Holds] = {
    "opened": shaped({"site": name, "key": hash_}),
    "namespace": shaped({"namespace": name, "cap": optional(cap)}),
    "data-set": shaped({"data_set": name, "namespace": name, "unit": optional(name)}),
    "approved": shaped(
        {"study": hash_, "name": name, "data_set": name, "trust": name, "roster": optional(hash_),
         "sums": listed(declared_sum, least=1)},
        also=lambda value: len({each["function"] for each in value["sums"]}) == len(value["sums"]),
    ),
    "charged": shaped({"study": hash_, "index": index, "function": text, "query": hash_, "salt": hexadecimal(32),
         "terms": optional(terms)}),
    "answered": shaped({"study": hash_, "index": index, "answer": hash_}),
    "agreed": shaped({"study": hash_, "index": index, "survivors": optional(sites_in_order)}),
    "burnt": shaped({"study": hash_, "index": index}),
    "closed": shaped({"study": hash_}),
    "refused": shaped({"study": hash_, "reason": name}),
}  # fmt: skip

_entry = shaped(
    {
        "version": lambda value: type(value) is int and value == 1, "sequence": index, "previous": hash_,
        "time": whole(0, 2**37 - 1), "kind": one_of(*BODIES), "body": lambda _value: True,
    }
)  # fmt: skip


def problem_of_entry(values: Any) -> str | None:
    """Why plain values are no entry; None if they are."""
    if not _entry(values):
        return "it is no entry"
    return (
        None
        if BODIES[values["kind"]](values["body"])
        else f"it is nothing that a ledger says of {values['kind']}"
    )


_receipt = shaped(
    {
        "version": lambda value: type(value) is int and value == 1, "study": hash_, "index": index, "transcript": hash_,
        "sequence": index, "head": hash_, "previous": hash_, "answer": hash_,
    }
)  # fmt: skip


signed_receipt = shaped({"receipt": _receipt, "signature": hexadecimal(128)})


def receipt_chain(value: Any) -> bool:
    """1 to 32 receipts with signatures, of one study, each of a later entry that names the one before."""
    if not listed(signed_receipt, least=1, most=32)(value):
        return False
    inner = [each["receipt"] for each in value]
    return all(
        (after["study"], after["previous"]) == (before["study"], before["head"])
        and after["sequence"] > before["sequence"]
        for before, after in pairwise(inner)
    )


def by_name(holds: Holds, named: Holds = text) -> Holds:
    """An object of any keys, each of which is a name, of values that hold."""
    return lambda value: (
        isinstance(value, dict) and all(map(named, value)) and all(map(holds, value.values()))
    )


receipts_by_site = by_name(
    receipt_chain, lambda name: text(name) and re.fullmatch("[1-9][0-9]{0,4}", name) is not None
)


def signed_by(public: bytes, tag: str, message: bytes, signature: str) -> bool:
    """Is this an Ed25519 signature under a tag of protocol 1, the signature hexadecimal?"""
    try:
        signed = b"discreet/v1/" + tag.encode() + b"\0" + message
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def problem_of_line(line: bytes, public: bytes) -> str | None:
    """Why this is no line of an export that the holder of the key signed."""
    try:
        values = canonical_value(line)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    if not shaped({"entry": lambda _value: True, "signature": hexadecimal(128)})(values):
        return "it is no entry with a signature"
    problem = problem_of_entry(values["entry"])
    # The line is canonical, and so is the entry within it: its bytes stand in the line.
    content = line[len(b'{"entry":') : -len(b',"signature":""}') - 128]
    if problem is None and not signed_by(
        public, "ledger", hashlib.sha256(content).digest(), values["signature"]
    ):
        return "nobody signed it"
    return problem


def problem_of_receipt(line: bytes, public: bytes) -> str | None:
    """Why this is no receipt that the holder of the key signed."""
    try:
        values = canonical_value(line)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    if not signed_receipt(values):
        return "it is no receipt with a signature"
    content = line[len(b'{"receipt":') : -len(b',"signature":""}') - 128]
    return (
        None if signed_by(public, "receipt", content, values["signature"]) else "nobody signed it"
    )


def receipt_of_answer(content: bytes, public: bytes) -> tuple[dict[str, Any], bytes]:
    """The one receipt that comes with an answer, and the answer. Raises ValueError where nobody has signed one."""
    length = int.from_bytes(content[:4], "big")
    line, answer = content[4 : 4 + length], content[4 + length :]
    problem = (
        problem_of_receipt(line[1:-1], public) if line[:1] + line[-1:] == b"[]" else "it is no list"
    )
    if problem is not None:
        raise ValueError(problem)
    receipt: dict[str, Any] = canonical_value(line)[0]["receipt"]
    return receipt, answer


kept_sum = shaped(
    {
        "index": index, "function": text, "round": whole(), "query_hash": text, "survivors": listed(text, least=0),
        "missing": listed(text, least=0), "abandoned": truth, "seconds": finite,
        "refusals": by_name(text), "lack": text, "nonce": text, "transcript": text,
        "cohort": listed(text, least=0), "members": listed(text, least=0), "signatures": by_name(text),
        "receipts": by_name(receipt_chain),
    }
)  # fmt: skip


class History:
    """A second reading of what may follow what: plain values folded one by one."""

    def __init__(self, public: bytes) -> None:
        self.public = public.hex()
        self.caps: dict[str, Any] = {}
        self.data_sets: dict[str, tuple[str, str | None]] = {}
        self.studies: dict[str, dict[str, Any]] = {}
        self.previous, self.count = "0" * 64, 0

    def problem(self, entry: dict[str, Any], content: bytes) -> str | None:
        """Why this entry may not come next; None if it may, and then it has come."""
        if (entry["sequence"], entry["previous"]) != (self.count, self.previous):
            return "it does not follow the entry before"
        rule = getattr(self, "_" + entry["kind"].replace("-", "_"))
        found = (
            rule(entry["body"])
            if (entry["kind"] == "opened") == (self.count == 0)
            else "a ledger is opened once, first"
        )
        self.previous, self.count = hashlib.sha256(content).hexdigest(), self.count + 1
        return found

    def _opened(self, body: dict[str, Any]) -> str | None:
        return None if body["key"] == self.public else "it is another site's ledger"

    def _namespace(self, body: dict[str, Any]) -> str | None:
        if body["namespace"] in self.caps:
            return "a budget changes"
        self.caps[body["namespace"]] = body["cap"]
        return None

    def _data_set(self, body: dict[str, Any]) -> str | None:
        place = (body["namespace"], body["unit"])
        others = [
            unit for namespace, unit in self.data_sets.values() if namespace == body["namespace"]
        ]
        if any((unit is None) != (body["unit"] is None) for unit in others):
            return "a budget is one of records and of units"
        if (
            body["namespace"] not in self.caps
            or self.data_sets.setdefault(body["data_set"], place) != place
        ):
            return "a data set has no budget, or another one than before"
        return None

    def _approved(self, body: dict[str, Any]) -> str | None:
        if body["study"] in self.studies or body["data_set"] not in self.data_sets:
            return "a study is approved twice, or for no data set"
        masked = body["trust"] in ("aggregate", "server")
        problem = self._problem_of_terms(body, masked=masked)
        if problem is not None:
            return problem
        self.studies[body["study"]] = {
            "sums": {each["function"]: each for each in body["sums"]}, "namespace": self.data_sets[body["data_set"]][0],
            "masked": masked, "asked": {}, "terms": {}, "agreed": set(),
            "used": dict.fromkeys((each["function"] for each in body["sums"]), 0), "closed": False,
        }  # fmt: skip
        return self._over_budget(self.data_sets[body["data_set"]][0])

    def _problem_of_terms(self, body: dict[str, Any], *, masked: bool) -> str | None:
        unit = self.data_sets[body["data_set"]][1]
        meanings = [
            ("record" if unit is None else f"a unit of column {unit}", "add-or-remove-one"),
            ("site", "replace-one"),
        ]
        if masked and body["roster"] is None:
            return "it is masked among nobody"
        for constants in (each["terms"] for each in body["sums"] if each["terms"] is not None):
            problems = {
                "it protects another unit than the budget's": (constants["unit"], constants["adjacency"])
                not in meanings,
                "it has noise that nobody added": body["trust"] != "aggregate" and constants["shares"] != 1,
                "masks do not hide a site among those that are honest": masked and not carried(constants),
                "its terms do not give the noise that is charged": constants["part"] != "train"
                or not sound(constants),
            }  # fmt: skip
            for said, wrong in problems.items():
                if wrong:
                    return said
        return None

    def _over_budget(self, namespace: str) -> str | None:
        """Renyi divergences of unsampled sums in closed form; a sampled sum costs at least nothing."""
        limit = self.caps[namespace]
        if limit is None:
            return None
        held = [each for each in self.studies.values() if each["namespace"] == namespace]
        if any(declared["terms"] is None for each in held for declared in each["sums"].values()):
            return "a study without privacy has a budget"
        room, extra, share = [], 0.0, 0.9 * limit["delta"] / len(limit["orders"])
        for order in limit["orders"]:
            bound = (
                limit["epsilon"]
                - math.log(1 - 1 / order)
                + (math.log(share) + math.log(order)) / (order - 1)
            )
            room.append(bound - sum(_divergence(each, order) for each in held))
        for each in held:
            extra += sum(
                _count(each, declared) * _extra(declared["terms"], limit["epsilon"])
                for declared in each["sums"].values()
            )
        close = 1e-9 * (1 + limit["epsilon"])
        return (
            "a budget is exceeded"
            if max(room) < -close or extra > 0.1 * limit["delta"] * (1 + 1e-9)
            else None
        )

    def _charged(self, body: dict[str, Any]) -> str | None:
        study = self._open(body["study"])
        if (
            study is None
            or body["index"] in study["asked"]
            or body["function"] not in study["sums"]
        ):
            return "a query is charged that may not be asked"
        study["used"][body["function"]] += 1
        study["asked"][body["index"]] = "pending"
        study["terms"][body["index"]] = body["terms"]
        declared = study["sums"][body["function"]]
        if study["used"][body["function"]] > declared["count"] or not same(
            body["terms"], declared["terms"]
        ):
            return "a query is charged beyond what was approved"
        return None

    def _answered(self, body: dict[str, Any]) -> str | None:
        study = self._open(body["study"])
        if study is None or study["asked"].get(body["index"]) != "pending":
            return "an answer was not paid for"
        study["asked"][body["index"]] = "answered"
        return None

    def _burnt(self, body: dict[str, Any]) -> str | None:
        problem = self._answered(body)
        if problem is None:
            self.studies[body["study"]]["asked"][body["index"]] = "burnt"
        return problem

    def _agreed(self, body: dict[str, Any]) -> str | None:
        study = self._open(body["study"])
        if (
            study is None
            or not study["masked"]
            or study["asked"].get(body["index"]) != "answered"
            or body["index"] in study["agreed"]
        ):
            return "a sum is agreed on that nobody could unmask, or for the second time"
        study["agreed"].add(body["index"])
        constants = study["terms"][body["index"]]
        survivors = body["survivors"]
        if constants is None or survivors is None:
            return None
        enough = len(survivors) >= constants["survivors"]
        return None if enough and max(survivors) <= constants["sites"] else "too few survive"

    def _closed(self, body: dict[str, Any]) -> str | None:
        study = self._open(body["study"])
        if study is None or "pending" in study["asked"].values():
            return "a study is closed that cannot be"
        study["closed"] = True
        return None

    def _refused(self, _body: dict[str, Any]) -> str | None:
        return None

    def _open(self, study: str) -> dict[str, Any] | None:
        found = self.studies.get(study)
        return None if found is None or found["closed"] else found


def _count(study: dict[str, Any], declared: dict[str, Any]) -> int:
    return study["used"][declared["function"]] if study["closed"] else declared["count"]


def _divergence(study: dict[str, Any], order: float) -> float:
    parts = {"train": 0.0, "test": 0.0}
    for declared in study["sums"].values():
        constants = declared["terms"]
        if constants["sampling_rate"] == 1:
            cost = (
                _count(study, declared)
                * order
                / 2
                / constants["noise_multiplier"]
                / constants["noise_multiplier"]
            )
            for part in parts if constants["part"] == "all" else [constants["part"]]:
                parts[part] += cost
    return max(parts.values())


def _extra(constants: dict[str, Any], epsilon: float) -> float:
    return (
        constants["beta"] * constants["sites_per_unit"]
        + (1 + math.exp(min(700, epsilon))) * constants["unlikely"]
    )


def carried(constants: dict[str, Any]) -> bool:
    """Does every sum that can be unmasked hold the honest shares that are charged? By counting, not by inequalities.

    Among any two sets of survivors that may be signed some signer is honest and in both; nobody who kept to one set is
    enough of a threshold for another; and what survives, less those who collude, is as many as the shares.
    """
    n, c, m = constants["sites"], constants["colluding"], constants["survivors"]
    t, tau, k = constants["threshold"], constants["quorum"], constants["shares"]
    if n > 1000 or c < 1:
        return False
    common = tau + tau - n  # at least so many sites sign both of two sets
    outside = n - m  # so many sites may be outside the first set, and reveal for a second
    others = n - tau  # so many sites have signed no set, and may take the fast path
    return common > c and t - c > outside and t - c > others and m - c >= k


def sound(constants: dict[str, Any]) -> bool:
    """Do deviation, scale and sensitivity yield the noise multiplier? By both formulas of the sensitivity."""
    places, dimension, scale = (
        constants["sites_per_unit"],
        constants["dimension"],
        constants["scale"],
    )
    one_place = constants["adjacency"] == "add-or-remove-one" and places == 1
    ranges = (
        dimension >= 1, scale > 0, constants["clipping_norm"] > 0, 0 < constants["beta"] < 1,
        constants["slack"] >= 2**-30, 3 <= constants["base"] <= 4096, constants["stretch"] >= 0,
        constants["bits"] in (32, 64), constants["unlikely"] > 0, one_place or constants["sampling_rate"] == 1,
    )  # fmt: skip
    if not all(ranges):
        return False
    reach, root = scale * constants["clipping_norm"] / places, math.sqrt(dimension)
    certain = reach + root
    likely = (
        reach * reach
        + dimension / 4
        + math.sqrt(-2 * math.log(constants["beta"])) * (reach + root / 2)
    )
    sensitivity = places * min(certain, math.sqrt(likely)) * (1 + constants["slack"])
    variance = constants["shares"] * variance_of(constants["base"], constants["stretch"]) - 4
    if variance <= 0:
        return False
    distance = 2 if constants["adjacency"] == "replace-one" else 1
    return math.isfinite(sensitivity) and math.sqrt(variance) / sensitivity / distance >= constants[
        "noise_multiplier"
    ] * (1 - 1e-8)


def variance_of(base: int, stretch: int) -> int:
    """Of a draw from a table and stretched ones, each base / 4 times as wide as the last; 0 if it is not smooth."""
    wide, narrow, stretches = max(2, base // 4), 1, []
    while stretch and wide ** (len(stretches) + 1) < stretch:
        stretches.append(wide ** (len(stretches) + 1))
    for each in [*stretches, stretch] if stretch else []:
        if base**2 * narrow < 9 * (narrow + each**2):
            return 0
        narrow += each**2
    return base**2 * narrow


def problem_of_export(lines: Sequence[bytes], public: bytes) -> str | None:
    """Why these lines are no ledger of this key; None if they are."""
    history = History(public)
    for place, line in enumerate(lines):
        problem = problem_of_line(line, public)
        if problem is None:
            content = line[len(b'{"entry":') : -len(b',"signature":""}') - 128]
            problem = history.problem(canonical_value(line)["entry"], content)
        if problem is not None:
            return f"entry {place}: {problem}"
    return None if lines else "nothing opened it"
