"""Who is a member is said by the federation's key or by so many sites that two such majorities share an honest one."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import hash_named, key_of

from privacy.errors import ProtocolError
from privacy.secure_aggregation.thresholds import MOST_SITES
from privacy.signing import SigningKey, fingerprint
from study.canonical import canonical_json, digest
from study.roster import Roster, RosterSite, SignedRoster

FEDERATION = key_of("federation")
NAMES = ("Mercy", "st. luke-2", "Ward_3")


def site(name, *, key=None):
    return RosterSite(name=name, key=(key or key_of(name)).public.hex())


def roster_of(*names, **changed):
    given_ = {
        "federation": "hearts", "key": FEDERATION.public.hex(), "sites": tuple(map(site, names or NAMES)),
    }  # fmt: skip
    return Roster(**(given_ | changed))


def after(before, **changed):
    """The version that follows, with the same members."""
    return dataclasses.replace(
        before, **({"number": before.number + 1, "previous": before.hash} | changed)
    )


def signed(roster, *keys):
    found = SignedRoster(roster=roster, signatures={})
    for key in keys:
        found = found.signed_by(key)
    return found


def sites_keys(*names):
    return [key_of(each) for each in names]


def with_signature(roster, key, signature):
    """A roster that claims this signature of that key."""
    return SignedRoster(roster=roster, signatures={key.public.hex(): signature.hex()})


FIRST = roster_of()
ONE = signed(FIRST, FEDERATION)


# What a roster is


def test_sites_are_numbered_from_one_in_their_order():
    assert FIRST.names == {1: "Mercy", 2: "st. luke-2", 3: "Ward_3"}
    assert FIRST.identities == tuple(key_of(each).public for each in NAMES)
    for number, name in FIRST.names.items():
        assert FIRST.number_of(key_of(name).public) == number


@pytest.mark.parametrize("public", [key_of("stranger").public, FEDERATION.public, b"", bytes(32)])
def test_a_stranger_has_no_number(public):
    with pytest.raises(ProtocolError, match="Expected a site of the roster") as error:
        FIRST.number_of(public)
    assert fingerprint(public) in error.value.message
    assert "sign a roster" in error.value.hint


def test_its_hash_and_fingerprint_are_of_its_canonical_form():
    content = canonical_json(FIRST.to_values())
    assert FIRST.hash == digest(json.loads(content))
    assert FIRST.fingerprint == fingerprint(content)
    assert roster_of().hash == FIRST.hash


@pytest.mark.parametrize(
    "changed",
    [
        {"federation": "Hearts"}, {"key": key_of("other").public.hex()}, {"number": 2, "previous": "0" * 64},
        {"number": 2, "previous": "1" * 64}, {"number": 3, "previous": "0" * 64}, {"colluding": 2},
        {"sites": FIRST.sites[:2]}, {"sites": FIRST.sites[::-1]}, {"sites": (*FIRST.sites, site("fourth"))},
        {"sites": (*FIRST.sites[:2], site("ward_3", key=key_of("Ward_3")))},
        {"sites": (*FIRST.sites[:2], site("Ward_3", key=key_of("new")))},
    ],
)  # fmt: skip
def test_every_part_of_it_is_part_of_its_hash(changed):
    other = dataclasses.replace(FIRST, **changed)
    assert other.hash != FIRST.hash
    assert other.fingerprint != FIRST.fingerprint


GOOD_NAMES = ["a", "0", "A b", "st. luke-2", "Ward_3", "a" * 100, "x.", "x ", "x-", "x_"]
BAD_NAMES = ["", " a", ".a", "-a", "_a", "a" * 101, "a\n", "a\tb", "ä", "a/b", "a\x00", "a\u202eb", None, 5, ["a"]]  # fmt: skip
BAD_KEYS = ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", None, 5, b"0" * 64, ["0" * 64]]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_are_plain_text(name):
    assert roster_of(name).names == {1: name}
    assert roster_of(federation=name).federation == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_other_names_are_refused_of_sites_and_of_federations(name):
    for make in (lambda: RosterSite(name=name, key="0" * 64), lambda: roster_of(federation=name)):
        with pytest.raises(ProtocolError, match="Expected a site's name"):
            make()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_malformed_keys_and_hashes_are_refused(key):
    for make in (
        lambda: RosterSite(name="a", key=key), lambda: roster_of(key=key),
        lambda: roster_of(number=2, previous=key) if key is not None else roster_of(key=key),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="Expected a key or hash of 64"):
            make()


@pytest.mark.parametrize("number", [0, -1, 2**31, 1.0, True, "1", None])
def test_a_version_has_a_number_from_one(number):
    with pytest.raises(ProtocolError, match="a roster's number from 1"):
        roster_of(number=number, previous="0" * 64)


@pytest.mark.parametrize(
    ("number", "previous"), [(1, "0" * 64), (2, None), (2**31 - 1, None)]
)  # fmt: skip
def test_all_versions_but_the_first_name_the_one_before(number, previous):
    with pytest.raises(ProtocolError, match="hash of the version before, except for the first"):
        roster_of(number=number, previous=previous)


@pytest.mark.parametrize("colluding", [0, -1, 4, 1.0, True, "1", None])
def test_of_n_sites_1_to_n_may_collude(colluding):
    with pytest.raises(ProtocolError, match="colluding from 1 to the number of sites"):
        roster_of(colluding=colluding)
    assert roster_of(colluding=3).colluding == 3


def test_there_are_1_to_1000_sites():
    many = tuple(RosterSite(name=f"site {each}", key=f"{each:064x}") for each in range(1001))
    assert len(roster_of(sites=many[:MOST_SITES]).sites) == MOST_SITES == 1000
    for wrong in ((), many):
        with pytest.raises(ProtocolError, match=f"1 to 1000 sites, found {len(wrong)}"):
            roster_of(sites=wrong)


@pytest.mark.parametrize(
    "sites",
    [
        (site("a"), site("a", key=key_of("b"))), (site("a"), site("A", key=key_of("b"))),
        (site("Ward 3"), site("b"), site("wARD 3", key=key_of("c"))),
        (site("a"), site("b", key=key_of("a"))), (site("a", key=FEDERATION), site("b")),
        (site("a"), site("a")),
    ],
)  # fmt: skip
def test_no_two_names_are_equal_but_for_case_and_no_two_keys_nor_one_the_federations(sites):
    """Two members of one key would count twice; a site with the federation's key could change the roster alone."""
    with pytest.raises(ProtocolError, match="no two are equal, the federation's included"):
        roster_of(sites=sites)


# The first one


def test_the_first_roster_is_signed_by_its_federation():
    ONE.check_first()
    signed(FIRST, *sites_keys(*NAMES), FEDERATION, key_of("stranger")).check_first()


@pytest.mark.parametrize(
    "keys", [[], sites_keys(*NAMES), [key_of("stranger")], [key_of("another federation")]]
)
def test_a_first_roster_that_others_have_signed_is_refused(keys):
    with pytest.raises(ProtocolError, match="that the federation's key has signed"):
        signed(FIRST, *keys).check_first()


def forged_signatures(roster, key):
    """Signatures that are none of this roster by this key."""
    content = canonical_json(roster.to_values())
    yield key.sign("ledger", content)
    yield key.sign("setup", content)
    yield key.sign("roster", bytes.fromhex(roster.hash))
    yield key.sign("roster", canonical_json(after(roster).to_values()))
    yield key_of("forger").sign("roster", content)
    yield key.private.sign(content)
    yield bytes(64)


@pytest.mark.parametrize("signature", list(forged_signatures(FIRST, FEDERATION)))
def test_a_false_signature_of_the_federation_is_refused(signature):
    forged = with_signature(FIRST, FEDERATION, signature)
    with pytest.raises(ProtocolError, match="that the federation's key has signed"):
        forged.check_first()
    with pytest.raises(ProtocolError, match=r"Expected a signature \(roster\)"):
        forged.check_signed()


# Changes


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"sites": (*FIRST.sites, site("fourth"))}, {"sites": FIRST.sites[:1]},
        {"colluding": 2}, {"key": key_of("new federation").public.hex()}, {"sites": (site("all new"),)},
    ],
)  # fmt: skip
def test_the_federations_key_may_change_anything_that_follows(changed):
    signed(after(FIRST, **changed), FEDERATION).check_change(FIRST)


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 3}, {"number": 1, "previous": None}, {"number": 2**31 - 1},
        {"previous": hash_named("another version")}, {"previous": "0" * 64},
        {"federation": "Hearts"}, {"federation": "lungs"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("keys", [[FEDERATION], [FEDERATION, *sites_keys(*NAMES)]])
def test_what_does_not_follow_is_refused_whoever_has_signed(changed, keys):
    with pytest.raises(ProtocolError, match="Expected version 2 of this federation"):
        signed(after(FIRST, **changed), *keys).check_change(FIRST)


def test_versions_follow_one_by_one():
    two = after(FIRST, sites=FIRST.sites[:2])
    three = after(two, sites=(*two.sites, site("new")))
    signed(two, FEDERATION).check_change(FIRST)
    signed(three, FEDERATION).check_change(two)
    for skipped, before in ((three, FIRST), (two, two), (FIRST, FIRST), (FIRST, two)):
        with pytest.raises(ProtocolError, match="of this federation, after the version at hand"):
            signed(skipped, FEDERATION).check_change(before)


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in range(1, 9) for c in range(1, n + 1)])
def test_sites_change_it_together_if_they_are_more_than_half_of_n_and_c(n, c):
    """Exactly (n + c) / 2 are too few. Any two sets that are enough share more than c sites, so an honest one."""
    names = [f"site {each}" for each in range(n)]
    before = roster_of(*names, colluding=c)
    new = after(before, sites=(*before.sites, site("new")))
    for count in range(n + 1):
        keys = sites_keys(*names[n - count :])
        if count > (n + c) / 2:
            signed(new, *keys).check_change(before)
            assert 2 * count - n > c
        else:
            with pytest.raises(ProtocolError, match=f"of {(n + c) // 2 + 1} sites, found {count}"):
                signed(new, *keys).check_change(before)


def test_any_majority_will_do():
    for keys in itertools.combinations(sites_keys(*NAMES), 3):
        signed(after(FIRST), *keys).check_change(FIRST)
    for keys in itertools.combinations(sites_keys(*NAMES), 2):
        with pytest.raises(ProtocolError, match="of 3 sites, found 2"):
            signed(after(FIRST), *keys).check_change(FIRST)


def test_strangers_and_new_members_count_for_nothing():
    """Only those who were members before decide, and each once, however many names a stranger has."""
    new = after(FIRST, sites=(*FIRST.sites, site("fourth"), site("fifth")))
    keys = sites_keys("fourth", "fifth", "sixth", "another federation", *NAMES[:2])
    with pytest.raises(ProtocolError, match="of 3 sites, found 2"):
        signed(new, *keys).check_change(FIRST)
    signed(new, *keys, key_of(NAMES[2])).check_change(FIRST)


def test_a_strangers_false_signature_does_no_harm():
    new = after(FIRST)
    good = signed(new, *sites_keys(*NAMES))
    junk = dict.fromkeys([key_of("stranger").public.hex(), "f" * 64], "0" * 128)
    SignedRoster(roster=new, signatures={**good.signatures, **junk}).check_change(FIRST)


def test_those_who_were_voted_out_may_vote_and_those_who_stay_alone_are_too_few():
    new = after(FIRST, sites=FIRST.sites[:1])
    signed(new, *sites_keys(*NAMES)).check_change(FIRST)
    with pytest.raises(ProtocolError, match="found 1"):
        signed(new, key_of(NAMES[0])).check_change(FIRST)


@pytest.mark.parametrize(
    "changed",
    [
        {"colluding": 2}, {"colluding": 3}, {"key": key_of("new federation").public.hex()},
        {"key": key_of("new federation").public.hex(), "colluding": 2},
    ],
)  # fmt: skip
def test_sites_alone_change_neither_the_federations_key_nor_how_many_may_collude(changed):
    new = after(FIRST, **changed)
    keys = [*sites_keys(*NAMES), key_of("new federation")]
    with pytest.raises(ProtocolError, match="the federation's key on a change of that key"):
        signed(new, *keys).check_change(FIRST)
    signed(new, FEDERATION).check_change(FIRST)


def test_a_key_that_was_given_up_changes_nothing_any_more():
    """The federation's and a site's alike: those of the version before count."""
    new_key = key_of("new federation")
    two = after(
        FIRST, key=new_key.public.hex(), sites=(*FIRST.sites[:2], site("Ward_3", key=key_of("new")))
    )
    signed(two, FEDERATION).check_change(FIRST)
    three = after(two)
    signed(three, new_key).check_change(two)
    with pytest.raises(ProtocolError, match="found 0"):
        signed(three, FEDERATION).check_change(two)
    with pytest.raises(ProtocolError, match="found 2"):
        signed(three, *sites_keys(*NAMES)).check_change(two)
    signed(three, *sites_keys(*NAMES[:2], "new")).check_change(two)


@pytest.mark.parametrize("name", NAMES)
def test_a_false_signature_of_a_member_is_refused(name):
    """Signatures of another version, purpose or key count for nothing: anybody could add one to spoil the others."""
    new, key = after(FIRST), key_of(name)
    good = signed(new, *sites_keys(*(each for each in NAMES if each != name)))
    for signature in forged_signatures(new, key):
        false = {**good.signatures, key.public.hex(): signature.hex()}
        with pytest.raises(ProtocolError, match="found 2"):
            SignedRoster(roster=new, signatures=false).check_change(FIRST)
        with pytest.raises(ProtocolError, match=r"Expected a signature \(roster\)"):
            SignedRoster(roster=new, signatures=false).check_signed()


def test_signatures_of_one_roster_are_none_of_another_with_the_same_number():
    one, other = (after(FIRST, sites=FIRST.sites[:count]) for count in (1, 2))
    good = signed(one, FEDERATION, *sites_keys(*NAMES))
    good.check_change(FIRST)
    with pytest.raises(ProtocolError, match="of the federation's key or of 3 sites, found 0"):
        SignedRoster(roster=other, signatures=good.signatures).check_change(FIRST)


def test_signing_adds_a_signature_and_changes_nothing():
    two = ONE.signed_by(key_of("Mercy"))
    assert len(ONE.signatures) == 1
    assert set(two.signatures) == {FEDERATION.public.hex(), key_of("Mercy").public.hex()}
    assert two.roster is ONE.roster
    assert two.signed_by(key_of("Mercy")) == two


# Its one form


@st.composite
def rosters(draw):
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,20}", fullmatch=True), min_size=1, max_size=6,
                 unique_by=str.casefold)
    )  # fmt: skip
    seeds = st.lists(
        st.binary(min_size=32, max_size=32),
        min_size=len(names) + 1,
        max_size=len(names) + 1,
        unique=True,
    )
    keys = [SigningKey.from_seed(each).public.hex() for each in draw(seeds)]
    number = draw(st.integers(1, 2**31 - 1))
    return Roster(
        federation=draw(st.sampled_from(GOOD_NAMES)), key=keys.pop(), number=number,
        previous=None if number == 1 else hash_named(str(number)), colluding=draw(st.integers(1, len(names))),
        sites=tuple(RosterSite(name=name, key=key) for name, key in zip(names, keys, strict=True)),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rosters(), st.sets(st.sampled_from(["federation", *NAMES, "stranger"])))
def test_every_roster_survives_its_file(roster, signers):
    one = signed(roster, *map(key_of, sorted(signers)))
    found = SignedRoster.from_bytes(one.to_bytes())
    assert found == one
    assert found.to_bytes() == one.to_bytes()
    assert found.roster.hash == roster.hash
    assert Roster.from_values(json.loads(canonical_json(roster.to_values()))) == roster


def test_the_form_of_a_file_is_this():
    """By hand: nobody may change it unnoticed, since fingerprints and studies hang on it."""
    one = signed(roster_of("a", "B"), FEDERATION)
    keys = [key_of(each).public.hex() for each in ("a", "B")]
    inner = (
        f'{{"colluding":1,"federation":"hearts","key":"{FEDERATION.public.hex()}","number":1,"previous":null,'
        f'"sites":[{{"key":"{keys[0]}","name":"a"}},{{"key":"{keys[1]}","name":"B"}}],"version":1}}'
    )
    signature = FEDERATION.private.sign(b"discreet/v1/roster\0" + inner.encode()).hex()
    signatures = f'{{"{FEDERATION.public.hex()}":"{signature}"}}'
    assert one.to_bytes().decode() == f'{{"roster":{inner},"signatures":{signatures}}}'


def replaced(values, path, value):
    if not path:
        return value
    copy = dict(values) if isinstance(values, dict) else list(values)
    copy[path[0]] = replaced(values[path[0]], path[1:], value)
    return copy


def paths(values, path=()):
    yield path
    for key in (
        values
        if isinstance(values, dict)
        else range(len(values))
        if isinstance(values, list)
        else ()
    ):
        yield from paths(values[key], (*path, key))


VALUES = json.loads(signed(after(FIRST), FEDERATION, *sites_keys(*NAMES)).to_bytes())
JUNK = [None, True, False, 0, -1, 4, 2**31, 0.5, "", "x", " x", "0" * 63, "G" * 64, "A" * 128, [], {}, [[]], {"a": 1}]  # fmt: skip


def test_every_single_change_of_a_signed_roster_is_refused_or_undoes_a_signature():
    """Any field, any junk: it is not read, or nobody has signed what is read."""
    count = 0
    for path in paths(VALUES):
        for junk in JUNK:
            content = canonical_json(replaced(VALUES, path, junk))
            if content == canonical_json(VALUES):
                continue
            with pytest.raises(ProtocolError, match="Expected"):
                SignedRoster.from_bytes(content).check_change(FIRST)
            count += 1
    assert count > 400


@pytest.mark.parametrize("path", [path for path in paths(VALUES) if path])
def test_a_roster_without_any_one_of_its_parts_or_with_one_more_is_refused(path):
    if isinstance(path[-1], int) or (path[0] == "signatures" and len(path) == 2):
        return  # members and signatures may be fewer
    owner = VALUES
    for key in path[:-1]:
        owner = owner[key]
    less = {key: value for key, value in owner.items() if key != path[-1]}
    for changed in (less, owner | {"more": 1}, less | {path[-1].upper(): owner[path[-1]]}):
        with pytest.raises(ProtocolError, match="Expected"):
            SignedRoster.from_bytes(canonical_json(replaced(VALUES, path[:-1], changed)))


def test_a_signature_is_128_digits_by_a_key_of_64():
    for key, value in (
        ("0" * 63, "0" * 128), ("A" * 64, "0" * 128), ("", "0" * 128), ("0" * 64, "0" * 127), ("0" * 64, "A" * 128),
        ("0" * 64, None), ("0" * 64, 5), ("0" * 64, ["0" * 128]),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="signatures of 64 bytes by key"):
            SignedRoster.from_bytes(canonical_json(VALUES | {"signatures": {key: value}}))


def test_other_spellings_are_refused():
    content = ONE.to_bytes()
    for wrong in (
        b"", b"{}", b"[]", b"null", b"\xff", content + b"\n", b" " + content, content[:-1], b"[" * 10_000,
        content.replace(b",", b", ", 1), content.replace(b'"number":1', b'"number":1.0'),
        content.replace(b'"number":1', b'"number":1,"number":1'), content.replace(b"hearts", b"\\u0068earts"),
    ):  # fmt: skip
        assert wrong != content
        with pytest.raises(ProtocolError, match="Expected"):
            SignedRoster.from_bytes(wrong)
