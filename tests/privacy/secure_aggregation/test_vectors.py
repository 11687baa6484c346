"""Messages that were written once are written the same for ever, and another implementation would write them so."""

import hashlib
import hmac
import importlib.util
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secure_aggregation.messages import MESSAGES, message_of

PLACE = Path(__file__).parents[2] / "vectors"
SCRIPT = PLACE / "make_secure_aggregation.py"
VECTORS = json.loads((PLACE / "secure_aggregation.json").read_text(encoding="utf-8"))
ROUNDS = ("fast", "survivors")
SITES = (1, 2, 3, 4)


def every_message():
    trips = [VECTORS["setup"], *(trip for each in ROUNDS for trip in VECTORS[each]["trips"])]
    for trip in trips:
        for said in trip.values():
            yield from said.values() if isinstance(said, dict) else [said]


def test_they_are_made_again_byte_for_byte():
    specification = importlib.util.spec_from_file_location("make_secure_aggregation", SCRIPT)
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    assert maker.vectors() == VECTORS


def test_the_command_that_is_written_there_is_the_one_that_made_them():
    assert VECTORS["command"].endswith(f"tests/vectors/{SCRIPT.name}")
    assert VECTORS["command"] in SCRIPT.read_text(encoding="utf-8")


def test_every_message_is_among_them_and_is_written_as_it_is_read():
    kinds = set()
    for text in every_message():
        message = message_of(bytes.fromhex(text))
        kinds.add(type(message))
        assert message.to_bytes().hex() == text
    assert kinds == set(MESSAGES.values())


@pytest.mark.parametrize(("path", "survivors"), [("fast", SITES), ("survivors", (1, 2, 4))])
def test_the_sum_is_that_of_the_vectors(path, survivors):
    found = VECTORS[path]
    assert found["survivors"] == list(survivors)
    total = [sum(each) for each in zip(*(found["vectors"][str(s)] for s in survivors), strict=True)]
    assert found["sum"] == [(each + 2**31) % 2**32 - 2**31 for each in total]


# What follows uses nothing of the project: the protocol as its documents describe it.


def prefixed(parts):
    return b"".join(len(each).to_bytes(8, "big") + each for each in parts)


def tag(purpose):
    return b"discreet/v1/secure-aggregation/" + purpose


def digest(purpose, *parts):
    return hashlib.sha256(prefixed([tag(purpose), *parts])).digest()


def derived(key, *labels):
    return hmac.new(key, prefixed(labels), hashlib.sha256).digest()


def number(value):
    return value.to_bytes(8, "big")


def seed(name, site):
    return bytes.fromhex(VECTORS[name][str(site)])


def setup_keys():
    """What each site announces, written and signed by hand."""
    found = {}
    for site in SITES:
        public = X25519PrivateKey.from_private_bytes(seed("x25519_seeds", site)).public_key()
        unsigned = b"".join(
            [
                b"DSA\x01\x02", bytes.fromhex(VECTORS["study"] + VECTORS["roster"]), site.to_bytes(2, "big"),
                bytes([3, site]) + bytes(14), public.public_bytes_raw(),
            ]
        )  # fmt: skip
        signer = Ed25519PrivateKey.from_private_bytes(seed("identity_seeds", site))
        found[site] = unsigned + signer.sign(b"discreet/v1/setup\0" + unsigned)
    return found


def chain_of(one, other, announced, round_):
    """The chain key of two sites before this round."""
    private = X25519PrivateKey.from_private_bytes(seed("x25519_seeds", one))
    public = announced[other][-96:-64]
    common = private.exchange(X25519PublicKey.from_public_bytes(public))
    session = digest(b"session", *announced.values())
    low, high = sorted((one, other))
    about = tag(b"chain") + digest(b"chain", session, announced[low], announced[high])
    chain = HKDF(SHA256(), 32, salt=None, info=about).derive(common)
    for _ in range(round_):
        chain = derived(chain, tag(b"ratchet"))
    return chain


def transcript_of(path, announced):
    at = VECTORS["thresholds"]
    constants = [at[name] for name in ("sites", "colluding", "survivors", "threshold", "quorum", "shares")]  # fmt: skip
    return digest(
        b"transcript", bytes.fromhex(VECTORS["study"]), bytes.fromhex(VECTORS["roster"]), number(path["round"]),
        digest(b"payload", bytes.fromhex(path["payload"])), *map(number, [*constants, VECTORS["bits"], 4]),
        digest(b"members", *announced.values()),
    )  # fmt: skip


def mask_of(key):
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(16))
    return [int.from_bytes(stream[place : place + 4], "little") for place in range(0, 16, 4)]


def dealt(entropy):
    """Shares of the self-mask for all sites: a polynomial of degree t - 1 = 2, highest coefficient first."""
    prime = 2**256 + 297
    key = derived(entropy, b"shares")
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(96))
    a, b = (int.from_bytes(stream[place : place + 48], "little") % prime for place in (0, 48))
    secret = int.from_bytes(derived(entropy, b"self-mask"), "big")
    return {x: ((a * x * x + b * x + secret) % prime).to_bytes(33, "big") for x in SITES}


def upload_of(site, path):
    """The message, from the description in `messages.py` and `keys.py`."""
    announced = setup_keys()
    transcript = transcript_of(path, announced)
    others = [each for each in SITES if each != site]
    chains = {each: chain_of(site, each, announced, path["round"]) for each in others}
    pairs = {
        each: derived(chains[each], tag(b"pair"), transcript, *(b"%d" % s for s in sorted((site, each))))
        for each in others
    }  # fmt: skip
    entropy = bytes.fromhex(path["self_mask_entropy"][str(site)])
    own, shares = derived(entropy, b"self-mask"), dealt(entropy)
    masked = [a + b for a, b in zip(path["vectors"][str(site)], mask_of(own), strict=True)]
    for each, key in pairs.items():
        sign = 1 if site < each else -1
        masked = [a + sign * b for a, b in zip(masked, mask_of(key), strict=True)]
    sealed = []
    for each in others:
        key = derived(chains[each], tag(b"share"), transcript, b"%d" % site, b"%d" % each)
        about = digest(b"share", tag(b"share"), transcript, number(site), number(each))
        sealed.append(ChaCha20Poly1305(key).encrypt(bytes(12), shares[each], about))
    count = [each.to_bytes(4, "big") for each in (len(SITES), len(others), len(others))]
    return b"".join(
        [
            b"DSA\x01\x04", transcript, site.to_bytes(2, "big"), b"\x20", (16).to_bytes(4, "big"),
            *((each % 2**32).to_bytes(4, "little") for each in masked), digest(b"self", transcript, number(site), own),
            count[0], *(digest(b"share", transcript, number(site), number(e), shares[e]) for e in SITES),
            count[1], *(digest(b"pair", transcript, *map(number, sorted((site, e))), pairs[e]) for e in others),
            count[2], *sealed,
        ]
    )  # fmt: skip


def test_a_second_implementation_announces_the_same_keys():
    assert {str(site): each.hex() for site, each in setup_keys().items()} == VECTORS["setup"]["replies"]  # fmt: skip


@pytest.mark.parametrize("path", ROUNDS)
def test_a_second_implementation_uploads_the_same_bytes(path):
    found = VECTORS[path]
    assert transcript_of(found, setup_keys()).hex() == found["transcript"]
    for site in SITES:
        assert upload_of(site, found).hex() == found["trips"][0]["replies"][str(site)]


def test_a_second_implementation_reveals_the_same_seeds_and_shares():
    found, announced = VECTORS["survivors"], setup_keys()
    transcript = transcript_of(found, announced)
    shares = {each: dealt(bytes.fromhex(found["self_mask_entropy"][str(each)])) for each in SITES}
    for site in (1, 2, 4):
        chain = chain_of(site, 3, announced, 1)
        pair = derived(chain, tag(b"pair"), transcript, *(b"%d" % s for s in sorted((site, 3))))
        expected = b"".join(
            [
                b"DSA\x01\x0a", transcript, site.to_bytes(2, "big"), (3).to_bytes(4, "big"),
                *(shares[each][site] for each in (1, 2, 4)), (1).to_bytes(4, "big"), pair,
            ]
        )  # fmt: skip
        assert expected.hex() == found["trips"][2]["replies"][str(site)]


def test_a_second_implementation_signs_the_same_survivors():
    found = VECTORS["survivors"]
    transcript = bytes.fromhex(found["transcript"])
    survivors = b"".join(each.to_bytes(2, "big") for each in (1, 2, 4))
    request = b"DSA\x01\x07" + transcript + (3).to_bytes(4, "big") + survivors
    assert request.hex() == found["trips"][1]["requests"]
    for site in (1, 2, 4):
        signer = Ed25519PrivateKey.from_private_bytes(seed("identity_seeds", site))
        signature = signer.sign(b"discreet/v1/survivors\0" + request)
        expected = b"DSA\x01\x08" + transcript + site.to_bytes(2, "big") + signature
        assert expected.hex() == found["trips"][1]["replies"][str(site)]
