"""Writes tests/vectors/ledger.json: one ledger of a fixed key, its receipts, and exports that must be refused.

    PYTHONPATH=.:tests/support python tests/vectors/make_ledger.py

The key is that of RFC 8032, section 7.1, test 1; the times are made up. Run it when the format's version changes, and
never to make a test pass: ledgers that sites hold must stay readable. In an export that is refused a number stands for
that line of the good one.
"""

import json
from dataclasses import replace
from pathlib import Path

from ledgers import approved, approved_masked, chained, hash_named, opening, terms_of

from privacy.filters import LifetimeCap
from privacy.signing import SigningKey
from study.ledger_entries import (
    Agreed,
    Answered,
    Burnt,
    Charged,
    Closed,
    DataSet,
    DeclaredSum,
    Refused,
    SignedEntry,
)
from study.ledger_state import replay
from study.receipts import receipts_of

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
CAP = LifetimeCap(epsilon=3.0, delta=1e-5, orders=(6.0, 8.0, 11.0, 16.0))
STUDY, MASKED = hash_named("study"), hash_named("follow-up")


def charged(index, function="gradient", terms=None, study=STUDY):
    query = hash_named(f"query {index}")
    return Charged(
        salt="5a" * 16,
        study=study,
        index=index,
        function=function,
        query=query,
        terms=terms or terms_of(9.0),
    )


def bodies(key):
    sums = (
        DeclaredSum(function="moments", count=1, terms=terms_of(30.0)),
        DeclaredSum(function="gradient", count=4, terms=terms_of(9.0)),
    )
    return [
        *opening("mercy", cap=CAP, key=key),
        DataSet(data_set="ward 3", namespace="people", unit=None),
        approved(sums=sums),
        charged(0, "moments", terms_of(30.0)),
        Answered(study=STUDY, index=0, answer=hash_named("answer 0")),
        charged(1),
        Burnt(study=STUDY, index=1),
        charged(2),
        Answered(study=STUDY, index=2, answer=hash_named("answer 2")),
        Refused(study=hash_named("another study"), reason="NOT_APPROVED"),
        Closed(study=STUDY),
        approved_masked("follow-up", count=2, z=9.0),
        charged(0, terms=terms_of(9.0, made_of=2), study=MASKED),
        Answered(study=MASKED, index=0, answer=hash_named("answer 0")),
        Agreed(study=MASKED, index=0, survivors=(1, 2, 3)),
        charged(1, terms=terms_of(9.0, made_of=2), study=MASKED),
        Answered(study=MASKED, index=1, answer=hash_named("answer 1")),
        Agreed(study=MASKED, index=1, survivors=None),
    ]


def refused(key, said, entries):
    """(name, lines, what the first contradiction is called): some need no key, some only the site itself could sign."""
    lines = [each.to_line().decode() for each in entries]
    other = SigningKey.from_seed(bytes(32))

    def signed_anew(number, body):
        return [
            each.to_line().decode()
            for each in chained([*said[:number], body, *said[number + 1 :]], key=key)
        ]

    yield (
        "an entry is missing",
        [*lines[:6], *lines[7:]],
        "Entry 6: Expected the entry that follows",
    )
    yield "the first entry is missing", lines[1:], "Entry 0: Expected the entry that follows"
    yield (
        "two entries are swapped",
        [*lines[:6], lines[7], lines[6], *lines[8:]],
        "Entry 6: Expected the entry",
    )
    yield (
        "an entry stands twice",
        [*lines[:6], lines[5], *lines[6:]],
        "Entry 6: Expected the entry that follows",
    )
    edited = lines[4].replace('"count":4', '"count":5')
    yield (
        "an entry is edited",
        [*lines[:4], edited, *lines[5:]],
        "Entry 4: Expected a signature (ledger)",
    )
    later = lines[6].replace('"time":1000', '"time":1001')
    yield (
        "a time is edited",
        [*lines[:6], later, *lines[7:]],
        "Entry 6: Expected a signature (ledger)",
    )
    foreign = (
        SignedEntry.sign(replay(entries[:6]).next_entry(said[6], time=1_000), other)
        .to_line()
        .decode()
    )
    yield (
        "another key has signed",
        [*lines[:6], foreign, *lines[7:]],
        "Entry 6: Expected a signature (ledger)",
    )
    spelt = lines[6].replace(":", ": ", 1)
    yield (
        "an entry is spelt otherwise",
        [*lines[:6], spelt, *lines[7:]],
        "Entry 6: Expected canonical JSON",
    )
    theirs = [
        each.to_line().decode() for each in chained(opening("mercy", cap=CAP, key=other), key=other)
    ]
    yield "the ledger is another site's", theirs, "Entry 0: Expected the ledger of the given key"
    uncharged = Answered(study=STUDY, index=3, answer=hash_named("answer 3"))
    yield (
        "an answer was not charged",
        signed_anew(6, uncharged),
        "Entry 6: Expected query 3 to be charged",
    )
    twice = signed_anew(9, charged(1))
    yield "a query is charged twice", twice, "Entry 9: Expected a new query, found number 1 again"
    cheap = charged(1, terms=terms_of(9.0, noise_multiplier=9.5))
    yield (
        "a charge claims more noise",
        signed_anew(7, cheap),
        "Entry 7: Expected the terms that were approved",
    )
    loud = DeclaredSum(function="gradient", count=4, terms=terms_of(9.0, noise_multiplier=9.5))
    yield (
        "an approval claims more noise",
        signed_anew(4, approved(sums=(loud,))),
        "Entry 4: Expected sound terms",
    )
    much = approved(count=200, z=9.0)
    yield (
        "the budget is exceeded",
        signed_anew(4, much),
        "Entry 4: Expected a study within the lifetime budget",
    )
    open_again = signed_anew(13, charged(3))
    yield "a closed study goes on", open_again, "Entry 13: Expected an open study"
    yield from masked_wrongly(said, signed_anew)


def masked_wrongly(said, signed_anew):
    """As `refused`, of the study whose sums are masked: entries 13 to 19."""
    whole = said[13]
    yield (
        "a masked study names no roster",
        signed_anew(13, replace(whole, roster=None)),
        "Entry 13: Expected the roster of a study",
    )
    yield (
        "a study that is not masked counts on two shares",
        signed_anew(13, replace(whole, trust="local")),
        "Entry 13: Expected terms of gradient for one share of noise",
    )
    weak = DeclaredSum(function="gradient", count=2, terms=terms_of(9.0, made_of=2, quorum=2))
    yield (
        "a quorum lets two sets of survivors pass",
        signed_anew(13, replace(whole, sums=(weak,))),
        "Entry 13: Expected sound terms of gradient: Expected 2 tau",
    )
    yield (
        "a sum is agreed on before there is an answer",
        signed_anew(15, said[16]),
        "Entry 15: Expected query 0 to be answered, and its answer masked",
    )
    few = replace(said[16], survivors=(1, 3))
    yield (
        "fewer survive than every sum has",
        signed_anew(16, few),
        "Entry 16: Expected at least 3 survivors of 3 sites",
    )
    strange = replace(said[16], survivors=(1, 2, 3, 4))
    yield (
        "a stranger survives",
        signed_anew(16, strange),
        "Entry 16: Expected at least 3 survivors of 3 sites",
    )
    second = replace(said[16], survivors=None)
    yield (
        "a second sum is agreed on",
        signed_anew(17, second),
        "Entry 17: Expected query 0 to be agreed on once",
    )


def vectors():
    key = SigningKey.from_seed(SEED)
    said = bodies(key)
    entries = chained(said, key=key)
    state = replay(entries, key.public)
    lines = [each.to_line().decode() for each in entries]
    return {
        "origin": "made by tests/vectors/make_ledger.py; the key is that of RFC 8032, section 7.1, test 1",
        "command": "PYTHONPATH=.:tests/support python tests/vectors/make_ledger.py",
        "seed": SEED.hex(),
        "public": key.public.hex(),
        "lines": lines,
        "head": state.head,
        "receipts": [each.to_line().decode() for each in receipts_of(state, key)],
        "refused": [
            {
                "name": name,
                "lines": [lines.index(each) if each in lines else each for each in wrong],
                "expected": expected,
            }
            for name, wrong, expected in refused(key, said, entries)
        ],
    }


if __name__ == "__main__":
    out = Path(__file__).with_name("ledger.json")
    out.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
