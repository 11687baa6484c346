"""Writes tests/vectors/secure_aggregation.json: fixed secrets of four sites in, the exact bytes of every message out.

    PYTHONPATH=.:tests/support python tests/vectors/make_secure_aggregation.py

One session and two rounds of it: in round 0 all are there, in round 1 site 3 is missing. Run it when the protocol's
version changes, and never to make a test pass: sites and coordinators of different releases must understand each other.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from aggregations import TAKE

from privacy.secure_aggregation.coordinator import CoordinatorRound, session_members
from privacy.secure_aggregation.messages import OpenRequest, SetupRequest, SurvivorsRequest
from privacy.secure_aggregation.site import (
    Federation,
    SiteState,
    join,
    open_all,
    reveal,
    setup,
    sign_survivors,
    upload,
)
from privacy.secure_aggregation.thresholds import Thresholds
from privacy.signing import SigningKey

SITES, MISSING, BITS = (1, 2, 3, 4), 3, 32
VECTORS = {
    0: {1: (1, -1, 0, 2**31 - 1), 2: (10, -10, 0, 1), 3: (100, -100, 0, -2), 4: (1000, -1000, 0, 0)},
    1: {1: (5, 6, 7, 8), 2: (-5, -6, -7, -8), 3: (9, 9, 9, 9), 4: (0, 1, 2, -(2**31))},
}  # fmt: skip
PAYLOADS = {0: b"the first model", 1: b"the second model"}


def fixed(kind, site, round_=0):
    """32 bytes that say what they are: a secret of a site that is anything but."""
    return bytes([kind, site, round_]) + bytes(29)


KEYS = {site: SigningKey.from_seed(fixed(1, site)) for site in SITES}
FEDERATION = Federation(
    study=fixed(5, 0), roster=fixed(6, 0), identities=tuple(each.public for each in KEYS.values()), rounds=2,
    thresholds=Thresholds(sites=4, colluding=1, survivors=3, threshold=3, quorum=3, shares=2),
)  # fmt: skip


def announce(request, states):
    """Trip 0: the keys of a session, by site."""
    found = {}
    for site in SITES:
        states[site], found[site] = setup(
            FEDERATION, states[site], request, seed=fixed(2, site), epoch=fixed(3, site)[:16], sign=KEYS[site].sign
        )  # fmt: skip
    return found


def answer(site, state, request):
    """What a site says in trips B and C."""
    if isinstance(request, OpenRequest):
        return open_all(state, request)
    if isinstance(request, SurvivorsRequest):
        return sign_survivors(FEDERATION, state, request, sign=KEYS[site].sign)
    return reveal(FEDERATION, state, request)


def play(members, states, round_, present):
    """One round: its trips, each with requests and replies by site, and its sum."""
    coordinator = CoordinatorRound(
        FEDERATION, members, round=round_, payload=PAYLOADS[round_], bits=BITS, dimension=4
    )
    replies = {}
    for site in SITES:
        joined = join(FEDERATION, states[site], coordinator.request, bits=BITS, dimension=4)
        states[site], replies[site] = upload(
            FEDERATION, states[site], joined, np.array(VECTORS[round_][site], np.int64), bits=BITS,
            seed=fixed(4, site, round_),
        )  # fmt: skip
    trips = [(dict.fromkeys(SITES, coordinator.request), replies)]
    for site in present:
        coordinator.uploaded(site, replies[site])
    while requests := coordinator.close():
        replies = {}
        for site, request in requests.items():
            states[site], replies[site] = answer(site, states[site], request)
            TAKE[type(replies[site])](coordinator, site, replies[site])
        trips.append((requests, replies))
    return trips, coordinator


def written(messages):
    """By site; one text where all of them are told the same."""
    texts = {str(site): each.to_bytes().hex() for site, each in messages.items()}
    return texts if len(set(texts.values())) > 1 else next(iter(texts.values()))


def described(members, states, round_, present):
    trips, coordinator = play(members, states, round_, present)
    return {
        "round": round_, "payload": PAYLOADS[round_].hex(), "transcript": coordinator.transcript.hex(),
        "vectors": {str(site): list(VECTORS[round_][site]) for site in SITES},
        "self_mask_entropy": {str(site): fixed(4, site, round_).hex() for site in SITES},
        "trips": [{"requests": written(asked), "replies": written(said)} for asked, said in trips],
        "survivors": list(coordinator.survivors), "sum": coordinator.total().tolist(),
    }  # fmt: skip


def vectors():
    states = {site: SiteState(site=site) for site in SITES}
    request = SetupRequest(study=FEDERATION.study, roster=FEDERATION.roster, nonce=fixed(7, 0)[:16])
    announced = announce(request, states)
    members = session_members(FEDERATION, list(announced.values()))
    return {
        "origin": "made by tests/vectors/make_secure_aggregation.py from secrets that are written here",
        "command": "PYTHONPATH=.:tests/support python tests/vectors/make_secure_aggregation.py",
        "study": FEDERATION.study.hex(), "roster": FEDERATION.roster.hex(), "bits": BITS,
        "thresholds": asdict(FEDERATION.thresholds),
        "identity_seeds": {str(site): fixed(1, site).hex() for site in SITES},
        "x25519_seeds": {str(site): fixed(2, site).hex() for site in SITES},
        "setup": {"requests": written(dict.fromkeys(SITES, request)), "replies": written(announced)},
        "fast": described(members, states, 0, SITES),
        "survivors": described(members, states, 1, [each for each in SITES if each != MISSING]),
    }  # fmt: skip


if __name__ == "__main__":
    out = Path(__file__).with_name("secure_aggregation.json")
    out.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
