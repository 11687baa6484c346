"""Every key depends on everything that it must: both identities, the direction, the session, the round, the transcript."""

import itertools
from dataclasses import replace

import pytest
from aggregations import announced_by, begun, secret
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secure_aggregation import keys
from privacy.secure_aggregation.keys import (
    Secret,
    advanced,
    agreed,
    commitment,
    digest_of,
    first_chain_key,
    open_share,
    pair_seed,
    private_key,
    public_key,
    seal_share,
)
from privacy.secure_aggregation.messages import SetupKey

FIELD = 2**255 - 19
OF_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER = {
    "0, of order 4": 0,
    "1, of order 1": 1,
    "one of order 8": OF_ORDER_8[0],
    "the other of order 8": OF_ORDER_8[1],
    "p - 1, of order 2": FIELD - 1,
    "p, which is 0": FIELD,
    "p + 1, which is 1": FIELD + 1,
}
"""Every u of a point of small order on Curve25519 or its twist (Bernstein, "A state-of-the-art Diffie-Hellman function",
"How do I validate Curve25519 public keys?"), canonical or not; the top bit is ignored, so each has a twin with it."""

TRANSCRIPT, SHARE = secret("transcript"), b"\x01" + secret("share")


def announced(site, name="key", **changed):
    public = public_key(private_key(secret(name, site)))
    values = {
        "study": secret("study"), "roster": secret("roster"), "site": site, "epoch": secret("epoch", site)[:16],
        "public": public, "signature": bytes(64),
    }  # fmt: skip
    return SetupKey(**(values | changed))


def chain_of(one=1, other=2, *, session=b"session", **changed):
    """The chain key, from the side of `one`."""
    common = agreed(private_key(secret("key", one)), announced(other))
    own, theirs = announced(one), announced(other)
    return first_chain_key(common, session=session, one=replace(own, **changed), other=theirs)


def test_both_sides_have_the_same_chain_key_and_no_other_pair_has_it():
    pairs = list(itertools.combinations(range(1, 5), 2))
    chains = [chain_of(*each).value for each in pairs]
    assert chains == [chain_of(other, one).value for one, other in pairs]
    assert len(set(chains)) == len(pairs)
    assert {len(each) for each in chains} == {32}


@pytest.mark.parametrize(
    "changed",
    [
        {"session": b"another session"}, {"site": 3}, {"epoch": bytes(16)}, {"public": bytes(32)},
        {"study": bytes(32)}, {"roster": bytes(32)}, {"signature": b"\1" * 64},
    ],
    ids=lambda each: next(iter(each)),
)  # fmt: skip
def test_everything_announced_changes_the_chain_key(changed):
    """With the same X25519 secret: this is what identities in the derivation are for."""
    assert chain_of(**changed).value != chain_of().value


def test_a_secret_in_common_alone_changes_the_chain_key():
    one, other = announced(1), announced(2)
    found = {
        first_chain_key(Secret(secret("common", each)), session=b"s", one=one, other=other).value
        for each in range(4)
    }
    assert len(found) == 4


def test_swapped_identities_are_another_pair():
    """Site 1 with the key of site 2, and site 2 with the key of site 1: the same keys under the other names."""
    common = agreed(private_key(secret("key", 1)), announced(2))
    one, other = announced(1), announced(2)
    swapped = replace(one, public=other.public), replace(other, public=one.public)
    chains = [
        first_chain_key(common, session=b"session", one=each[0], other=each[1]).value
        for each in ((one, other), swapped)
    ]
    assert chains[0] != chains[1]


def test_the_chain_goes_on_by_one_round_and_never_repeats():
    chain = chain_of()
    values = [advanced(chain, each).value for each in range(20)]
    assert values[0] == chain.value
    assert len(set(values)) == 20
    assert advanced(advanced(chain, 3), 4).value == values[7]


def test_a_later_chain_key_does_not_give_an_earlier_seed():
    """Forward secrecy, as far as a test can see it: no derived value of round 1 occurs in round 0."""
    chain = chain_of()
    now = {pair_seed(chain, TRANSCRIPT, 1, 2), seal_share(chain, TRANSCRIPT, 1, 2, SHARE)}
    after = advanced(chain, 1)
    assert now.isdisjoint(
        {pair_seed(after, TRANSCRIPT, 1, 2), seal_share(after, TRANSCRIPT, 1, 2, SHARE)}
    )


def test_a_pair_seed_depends_on_chain_transcript_and_both_sites_in_any_order():
    chain = chain_of()
    base = pair_seed(chain, TRANSCRIPT, 1, 2)
    assert base == pair_seed(chain, TRANSCRIPT, 2, 1)
    others = [
        pair_seed(advanced(chain, 1), TRANSCRIPT, 1, 2), pair_seed(chain_of(1, 3), TRANSCRIPT, 1, 2),
        pair_seed(chain, secret("another transcript"), 1, 2), pair_seed(chain, TRANSCRIPT, 1, 3),
        pair_seed(chain, TRANSCRIPT, 3, 2),
    ]  # fmt: skip
    assert len({base, *others}) == 6


def test_no_key_is_another_key():
    """One chain key, every purpose: the seed, the two sealing keys, the next chain key, commitments to one secret."""
    chain = chain_of()
    derived = [
        chain.value, advanced(chain, 1).value, pair_seed(chain, TRANSCRIPT, 1, 2),
        *(commitment(kind, TRANSCRIPT, SHARE, 1, 2) for kind in ("self", "share", "pair")),
        digest_of("share", TRANSCRIPT, 1, 2),
    ]  # fmt: skip
    sealed = [seal_share(chain, TRANSCRIPT, *each, bytes(33)) for each in ((1, 2), (2, 1))]
    assert len({*derived, *sealed}) == len(derived) + 2
    assert {len(each) for each in derived} == {32}


def test_a_share_is_opened_by_whom_it_is_for():
    for pair in ((1, 2), (2, 1), (1, 4)):
        sealed = seal_share(chain_of(*sorted(pair)), TRANSCRIPT, *pair, SHARE)
        assert SHARE not in sealed
        assert open_share(chain_of(*sorted(pair)), TRANSCRIPT, *pair, sealed, step="here") == SHARE


@pytest.mark.parametrize(
    "changed",
    [
        {"chain": Secret(secret("another chain"))}, {"chain": advanced(chain_of(), 1)}, {"transcript": bytes(32)},
        {"sender": 3}, {"recipient": 3}, {"sender": 2, "recipient": 1},
    ],
    ids=["chain", "next round", "transcript", "sender", "recipient", "direction"],
)  # fmt: skip
def test_a_share_under_any_other_label_is_refused(changed):
    labels = {"chain": chain_of(), "transcript": TRANSCRIPT, "sender": 1, "recipient": 2}
    sealed = seal_share(*labels.values(), SHARE)
    asked = labels | changed
    with pytest.raises(AggregationError, match="site .* for site .*, of this round") as refusal:
        open_share(*asked.values(), sealed, step="reveal")
    assert refusal.value.step == "reveal"
    assert seal_share(*asked.values(), SHARE) != sealed


@pytest.mark.parametrize("changed", [{"sender": 3}, {"recipient": 3}, {"transcript": bytes(32)}])
def test_the_labels_are_associated_data_too(monkeypatch, changed):
    """Two independent guards: with one key for everything the wrong label is still refused."""
    monkeypatch.setattr(keys, "derive_key", lambda *_: bytes(32))
    labels = {"chain": chain_of(), "transcript": TRANSCRIPT, "sender": 1, "recipient": 2}
    sealed = seal_share(*labels.values(), SHARE)
    with pytest.raises(AggregationError, match="of this round and transcript"):
        open_share(*(labels | changed).values(), sealed, step="opening")


@pytest.mark.parametrize("changed", [{"sender": 3}, {"recipient": 3}, {"transcript": bytes(32)}])
def test_the_labels_are_in_the_key_too(monkeypatch, changed):
    """The other guard: with no associated data the wrong label is still refused."""
    monkeypatch.setattr(
        keys, "ChaCha20Poly1305", lambda key: type("Bare", (), {
            "encrypt": lambda _, nonce, share, __: ChaCha20Poly1305(key).encrypt(nonce, share, None),
            "decrypt": lambda _, nonce, sealed, __: ChaCha20Poly1305(key).decrypt(nonce, sealed, None),
        })()
    )  # fmt: skip
    labels = {"chain": chain_of(), "transcript": TRANSCRIPT, "sender": 1, "recipient": 2}
    sealed = seal_share(*labels.values(), SHARE)
    assert open_share(*labels.values(), sealed, step="opening") == SHARE
    with pytest.raises(AggregationError, match="of this round and transcript"):
        open_share(*(labels | changed).values(), sealed, step="opening")


def test_every_flipped_bit_of_a_sealed_share_is_refused():
    sealed = seal_share(chain_of(), TRANSCRIPT, 1, 2, SHARE)
    for place in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[place // 8] ^= 1 << (place % 8)
        with pytest.raises(AggregationError, match="a share of site 1 for site 2"):
            open_share(chain_of(), TRANSCRIPT, 1, 2, bytes(flipped), step="opening")


@pytest.mark.parametrize("twin", [0, 1 << 255], ids=["", "top bit"])
@pytest.mark.parametrize("place", SMALL_ORDER.values(), ids=SMALL_ORDER)
def test_a_key_of_small_order_is_refused(place, twin):
    """Whoever agrees with one has zeros in common with everybody."""
    public = (place | twin).to_bytes(32, "little")
    for site in range(1, 4):
        with pytest.raises(AggregationError, match="a key of site 9 that agrees") as refusal:
            agreed(private_key(secret("key", site)), announced(9, public=public))
        assert refusal.value.step == "upload"


def test_no_two_sites_of_a_session_share_a_chain_key_with_a_third():
    _, sites, members = begun(5)
    chains = {}
    for site in sites.values():
        own = private_key(secret("x25519", site.number, bytes(16)))
        for other in members:
            if other.site != site.number:
                chains[site.number, other.site] = first_chain_key(
                    agreed(own, other), session=b"s", one=members[site.number - 1], other=other
                ).value
    assert all(chains[pair] == chains[pair[::-1]] for pair in chains)
    assert len(set(chains.values())) == 10


def test_a_fresh_nonce_is_a_fresh_key():
    _, sites, _ = begun(5)
    those = list(sites.values())
    found = [
        each.public for nonce in (b"a" * 16, b"b" * 16) for each in announced_by(those, nonce=nonce)
    ]
    assert len(set(found)) == 10


PARTS = st.one_of(st.binary(max_size=20), st.integers(0, 2**64 - 1))


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4), st.sampled_from(["a", "b"]))
def test_a_digest_is_of_one_list_alone(one, other, purpose):
    """Length prefixes: ("ab", "c") and ("a", "bc") differ. A number is its 8 bytes, and nothing else is mistaken."""

    def spelt(parts):
        return [each.to_bytes(8, "big") if isinstance(each, int) else each for each in parts]

    same = spelt(one) == spelt(other)
    assert (digest_of(purpose, *one) == digest_of(purpose, *other)) == same
    assert digest_of("a", *one) != digest_of("b", *one)


def test_a_secret_shows_itself_to_nobody():
    value = Secret(b"password" * 4)
    assert "password" not in f"{value!r} {value} {[value]}"


@pytest.mark.parametrize("kind", ["self", "share", "pair"])
def test_a_commitment_binds_kind_transcript_sites_and_secret(kind):
    base = commitment(kind, TRANSCRIPT, SHARE, 1, 2)
    others = [
        commitment("other", TRANSCRIPT, SHARE, 1, 2), commitment(kind, bytes(32), SHARE, 1, 2),
        commitment(kind, TRANSCRIPT, SHARE, 2, 1), commitment(kind, TRANSCRIPT, SHARE, 1, 3),
        commitment(kind, TRANSCRIPT, SHARE, 1), commitment(kind, TRANSCRIPT, SHARE[1:], 1, 2),
    ]  # fmt: skip
    assert len({base, *others}) == 7
