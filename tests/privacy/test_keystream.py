"""Keystreams never repeat a word, wherever they are taken."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key

KEY = bytes(range(32))


def test_words_are_the_aes_256_ctr_keystream():
    expected = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8000))
    assert Keystream(KEY).words(1000).tobytes() == expected


def test_words_do_not_depend_on_how_they_are_asked_for():
    whole = Keystream(KEY).words(100_000)
    parts = Keystream(KEY)
    pieces = [parts.words(count) for count in (1, 0, 33_333, 7, 66_659)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_threads_never_get_the_same_word():
    stream, taken = Keystream(KEY), []

    def take():
        for _ in range(200):
            taken.append(stream.words(64))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    words = np.concatenate(taken)
    assert len(np.unique(words)) == len(words) == 4 * 200 * 64


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_refuses_to_repeat_its_parents_words():
    stream = Keystream(KEY)
    child = os.fork()
    if child == 0:
        try:
            stream.words(1)
        except PrivacyError:
            os._exit(42)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_keystream_cannot_be_duplicated(duplicate):
    with pytest.raises(TypeError, match="cannot be copied"):
        duplicate(Keystream(KEY))


def test_a_keystream_does_not_show_its_key():
    assert "secret" in repr(Keystream(KEY))
    assert KEY.hex() not in repr(Keystream(KEY))


def test_labels_cannot_be_confused():
    labels = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("abc", ""),
        (1, 2),
        (12,),
        ("noise", 1),
        ("noise", 11),
    ]
    assert len({derive_key(KEY, *each) for each in labels}) == len(labels)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_only_keys_of_32_bytes_are_taken(key):
    with pytest.raises(PrivacyError, match="Expected a key of 32 bytes"):
        Keystream(key)


def test_a_negative_number_of_words_is_refused():
    with pytest.raises(PrivacyError, match="at least 0"):
        Keystream(KEY).words(-1)
