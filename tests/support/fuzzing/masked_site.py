"""Target: a site, in the middle of a masked round, is told anything."""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from client.answers import RefusedError, Site
from client.ledger import Ledger, create_ledger
from client.registration import register
from client.tables import Records
from fuzzing import mutations
from fuzzing.aggregation import other_items, other_number
from fuzzing.engine import Target
from fuzzing.judge_aggregation import MAGIC, message_parts
from fuzzing.judge_json import message_parts as query_parts
from fuzzing.judge_ledger import receipt_of_answer, signed_by
from fuzzing.mutations import BYTES
from fuzzing.mutations_messages import MESSAGES
from fuzzing.places import new_directory
from fuzzing.studies import NONCE, studies
from privacy.filters import LifetimeCap
from privacy.keystream import derive_key
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.messages import (
    OpenRequest,
    RevealRequest,
    RoundRequest,
    SetupKey,
    SetupRequest,
    SurvivorsRequest,
)
from privacy.signing import SigningKey
from study.aggregation import federation_of
from study.contract import Privacy, Sites
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.models import model_of
from study.queries import SumQuery
from study.roster import Roster, RosterSite

__all__ = ["TARGETS"]

_KEYS = {number: SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3, 4)}
_OWN, _SURVIVORS = 1, (1, 2, 3)
_ROSTER = Roster(
    federation="hearts", key=SigningKey.from_seed(bytes(32)).public.hex(),
    sites=tuple(RosterSite(name=f"site {each}", key=key.public.hex()) for each, key in _KEYS.items()),
)  # fmt: skip
_PRIVACY = Privacy(trust="aggregate", noise_multiplier=3.0, max_dropouts=1)
_STUDY = Declaration(
    study=replace(studies()[0], privacy=_PRIVACY, sites=Sites(minimum=4)), sites=4, noise_multiplier=3.0, nonce=NONCE,
    roster=_ROSTER.hash,
)  # fmt: skip
_RECORDS = Records(
    np.linspace(0, 10, 18).reshape(6, 3), np.arange(6) % 2, np.arange(6), [b"%d" % each for each in range(6)],
    np.ones(6, np.bool_), "records",
)  # fmt: skip

Said = tuple[str, bytes]
"""Where the site is, "announced" or "uploaded", and what it is told then."""


class Reply(NamedTuple):
    """What a site replied, and what its ledger says by then of the one query that there may be."""

    content: bytes
    asked: list[tuple[str, Any]]


@functools.cache
def _before() -> Path:
    """The ledger of a site that has registered its records."""
    path = new_directory() / "ledger.sqlite"
    create_ledger(path, _KEYS[_OWN], "site 1", clock=lambda: 0)
    opened = Ledger(path, _KEYS[_OWN], clock=lambda: 0, durable=False)
    cap = LifetimeCap(epsilon=50.0, delta=1e-3, orders=(2.0, 4.0))
    register(
        opened, data_set="records", namespace="people", unit=None, identities=_RECORDS.identities, cap=cap
    )  # fmt: skip
    opened.close()
    return path


def _approved(name: str) -> tuple[Site, Ledger]:
    path = _before().with_name(name) / "ledger.sqlite"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    shutil.copyfile(_before(), path)
    path.chmod(0o600)
    ledger = Ledger(path, _KEYS[_OWN], clock=lambda: 0, durable=False)
    site = Site(ledger, entropy=lambda *labels: derive_key(bytes(32), "fuzzing", *labels))
    site.approve(_STUDY, _RECORDS, data_set="records", roster=_ROSTER)
    return site, ledger


# A whole round, with peers who keep the rules


@functools.cache
def _round() -> dict[str, bytes]:
    """What an honest coordinator says, by kind; the site under test is made anew for it."""
    guarantee = Guarantee(_STUDY)
    federation, mechanism = federation_of(guarantee, _ROSTER), guarantee.mechanism("gradient")
    assert mechanism is not None
    setup = SetupRequest(study=federation.study, roster=federation.roster, nonce=bytes(16))
    site, ledger = _approved("seeds")
    announced = [SetupKey.from_bytes(site.answer(setup.to_bytes()))]
    states = {}
    for number in (2, 3, 4):
        states[number], key = machine.setup(
            federation, machine.SiteState(site=number), setup, seed=derive_key(bytes(32), "peer", number),
            epoch=bytes([number]) * 16, sign=_KEYS[number].sign,
        )  # fmt: skip
        announced.append(key)
    ledger.close()
    query = SumQuery(
        study=_STUDY.hash, index=0, function="gradient", parameters=model_of(_STUDY.study).initial(bytes(32)),
        nonce=bytes(16),
    )  # fmt: skip
    request = RoundRequest(round=0, payload=query.to_bytes(), members=tuple(announced))
    shape = {"bits": mechanism.bits, "dimension": mechanism.dimension}
    transcript = machine.transcript_of(federation, request, **shape)
    sealed = {}
    for number, state in states.items():
        joined = machine.join(federation, state, request, **shape)
        _, upload = machine.upload(
            federation, state, joined, np.zeros(mechanism.dimension, np.int64), bits=mechanism.bits,
            seed=derive_key(bytes(32), "mask", number),
        )  # fmt: skip
        sealed[number] = upload.ciphertexts[0]  # for the lowest of the others, which is site 1
    survivors = SurvivorsRequest(transcript=transcript, survivors=_SURVIVORS)
    signatures = tuple(
        (each, _KEYS[each].sign("survivors", survivors.signed)) for each in _SURVIVORS
    )
    return {
        "setup": setup.to_bytes(), "round": request.to_bytes(), "survivors": survivors.to_bytes(),
        "open": OpenRequest(transcript=transcript, ciphertexts=tuple(sealed.values())).to_bytes(),
        "reveal": RevealRequest(
            transcript=transcript, survivors=_SURVIVORS, signatures=signatures, ciphertexts=(sealed[2], sealed[3])
        ).to_bytes(),
    }  # fmt: skip


def _seeds() -> Sequence[Said]:
    said = _round()
    return [
        ("announced", said["round"]), ("announced", said["setup"]), ("uploaded", said["open"]),
        ("uploaded", said["survivors"]), ("uploaded", said["reveal"]), ("uploaded", said["round"]),
    ]  # fmt: skip


class _Sites:
    """A site at each place, kept until it has accepted something, so that no case depends on another."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[Site, Ledger]] = {}

    def get(self, where: str) -> tuple[Site, Ledger]:
        if where not in self._at:
            site, ledger = _approved(where)
            site.answer(_round()["setup"])
            if where == "uploaded":
                site.answer(_round()["round"])
            self._at[where] = site, ledger
        return self._at[where]

    def drop(self, where: str) -> None:
        _, ledger = self._at.pop(where)
        ledger.close()


_sites = _Sites()


def _asked(ledger: Ledger) -> list[tuple[str, Any]]:
    return [(each.status, each.agreed) for each in ledger.state.account(_STUDY.hash).asked.values()]


def _tell(said: Said) -> Reply:
    where, data = said
    site, ledger = _sites.get(where)
    masked = site._approved[_STUDY.hash].masked
    before = _asked(ledger), vars(masked)["_state"]
    try:
        content = site.answer(data)
    except RefusedError:
        after, problems = (_asked(ledger), vars(masked)["_state"]), list(site.problems)
        site.problems.clear()
        if (
            after[0] != before[0]
            or after[1] is not before[1]
            or not all(": " in each for each in problems)
        ):
            _sites.drop(where)
            raise AssertionError(f"refused, and yet something has changed: {problems}") from None
        raise
    asked = _asked(ledger)
    _sites.drop(where)
    return Reply(content, asked)


# What may be accepted


def _problem(said: Said, reply: Reply) -> str | None:
    where, data = said
    kind, fields = message_parts(data)
    if kind == 1:
        return _problem_of_setup(fields, reply)
    if kind == 3 and where == "announced":
        return _problem_of_round(fields, reply)
    if kind == 3:
        same = data == _round()["round"] and reply.asked == [("answered", None)]
        return None if same else "it has answered another question"
    if where == "announced" or kind not in (5, 7, 9):
        return "nothing of that kind may be asked here"
    return _problem_of_sum(kind, data, fields, reply)


def _problem_of_setup(fields: dict[str, Any], reply: Reply) -> str | None:
    kind, key = message_parts(reply.content)
    ours = {"study": bytes.fromhex(_STUDY.hash), "roster": bytes.fromhex(_ROSTER.hash)}
    if any(each[name] != value for each in (fields, key) for name, value in ours.items()):
        return "it is a key for another study or roster"
    signed = signed_by(_KEYS[_OWN].public, "setup", reply.content[:-64], reply.content[-64:].hex())
    return None if kind == 2 and key["site"] == _OWN and signed else "it is not this site's key"


def _problem_of_round(fields: dict[str, Any], reply: Reply) -> str | None:
    head, arrays = query_parts(fields["payload"])
    shapes = {name: array.shape for name, array in arrays.items()}
    if head["study"] != _STUDY.hash or (head["index"], head["function"]) != (
        fields["round"],
        "gradient",
    ):
        return "it asks what the site has not approved"
    if shapes != model_of(_STUDY.study).shapes or head["receipts"] != {}:
        return "its model has another shape, or it shows receipts that nobody has signed"
    problem = _problem_of_members([member for _, member in fields["members"]])
    if problem is None and reply.asked != [("answered", None)]:
        return f"its ledger says {reply.asked}"
    return problem or _problem_of_upload(fields, reply.content)


def _problem_of_members(members: list[dict[str, Any]]) -> str | None:
    sites, publics = [each["site"] for each in members], {each["public"] for each in members}
    if (
        sites != sorted(set(sites))
        or _OWN not in sites
        or len(publics) < len(sites)
        or len(sites) < 3
    ):
        return "its members are no session of this site"
    for each in members:
        content = (
            MAGIC + bytes([2]) + each["study"] + each["roster"] + each["site"].to_bytes(2, "big")
        )
        content += each["epoch"] + each["public"]
        if not signed_by(_KEYS[each["site"]].public, "setup", content, each["signature"].hex()):
            return "a member has not signed its key"
    return None


def _problem_of_upload(fields: dict[str, Any], content: bytes) -> str | None:
    try:
        receipt, answer = receipt_of_answer(content, _KEYS[_OWN].public)
    except ValueError as error:
        return f"there is no receipt: {error}"
    if receipt["index"] != fields["round"]:
        return "the receipt is of another query"
    kind, upload = message_parts(answer)
    others = len(fields["members"]) - 1
    counts = [len(upload[name]) for name in ("shares", "pair_masks", "ciphertexts")]
    if kind != 4 or counts != [others + 1, others, others]:
        return "it is no upload among these members"
    return None if upload["transcript"].hex() == receipt["transcript"] else "it is another upload"


def _problem_of_sum(kind: int, data: bytes, fields: dict[str, Any], reply: Reply) -> str | None:
    """Shares can be sealed, and sets signed, by none but the peers: only what they said is accepted."""
    said, survivors = _round(), fields.get("survivors")
    if kind == 7:
        transcript = message_parts(said["survivors"])[1]["transcript"]
        possible = ([1, 2, 3], [1, 2, 4], [1, 3, 4])
        fits = fields["transcript"] == transcript and survivors in possible
    else:
        fits = data == said["open" if kind == 5 else "reveal"]
    if not fits:
        return "nobody could have asked for that"
    [(status, agreed)] = reply.asked
    expected = None if survivors is None else tuple(survivors)
    if status != "answered" or agreed is None or agreed.survivors != expected:
        return "what it helps with is not what its ledger says"
    return None


# What it is told


def _on_bytes(change: Any) -> Any:
    def mutate(draw: random.Random, said: Said, pool: Sequence[Said]) -> Said:
        return said[0], change(draw, said[1], [each for _, each in pool])

    mutate.__name__ = change.__name__
    return mutate


def _elsewhere(draw: random.Random, said: Said, pool: Sequence[Said]) -> Said:
    """The same at another time, or something else that somebody says."""
    return draw.choice(["announced", "uploaded"]), draw.choice([said[1], draw.choice(pool)[1]])


def _other_query(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """A round about another query."""
    if data[4:5] != bytes([3]):
        return data
    end = 13 + int.from_bytes(data[9:13], "big")
    payload = draw.choice(MESSAGES)(draw, data[13:end], [data[13:end]])
    return data[:9] + len(payload).to_bytes(4, "big") + payload + data[end:]


MASKED_SITE = Target(
    name="masked-site", seeds=_seeds,
    mutations=(
        *map(_on_bytes, BYTES), *map(_on_bytes, (other_number, other_items, _other_query) * 3), _elsewhere, _elsewhere,
    ),
    garbage=lambda draw: (draw.choice(["announced", "uploaded"]), b"DSA\x01" + mutations.garbage(draw)),
    read=_tell, errors=(RefusedError,), judge=_problem, work=(300_000, 40), weight=0.5,
)  # fmt: skip

TARGETS = (MASKED_SITE,)
