"""Keystreams never repeat a word, wherever they are taken."""

import copy
import multiprocessing
import os
import pickle
import signal
import threading

import mpmath
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key, repetition_distance

KEY = bytes(range(32))


def test_words_are_the_aes_256_ctr_keystream():
    expected = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8000))
    assert Keystream(KEY).words(1000).tobytes() == expected


def test_words_do_not_depend_on_how_they_are_asked_for():
    whole = Keystream(KEY).words(100_000)
    parts = Keystream(KEY)
    pieces = [parts.words(count) for count in (1, 0, 33_333, 7, 66_659)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_threads_share_one_stream_without_a_gap_or_a_repetition():
    """What eight threads were given is the stream itself, cut into pieces: nothing twice, nothing lost."""
    stream, taken, sizes = Keystream(KEY), [], (1, 64, 33_000)  # up to more than one chunk

    def take():
        for _ in range(5):
            taken.extend(stream.words(size) for size in sizes)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    count = 8 * 5 * sum(sizes)
    whole = Keystream(KEY).words(count)
    assert np.array_equal(np.sort(np.concatenate(taken)), np.sort(whole))
    starts = {int(word): place for place, word in enumerate(whole)}
    for piece in taken:
        place = starts[int(piece[0])]
        assert np.array_equal(piece, whole[place : place + len(piece)])


def outcome_in_fork(action):
    """Exit code of a forked child: 0 if `action` returned, 42 if it refused; a child that hangs is killed."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        code = 1
        try:
            action()
            code = 0
        except PrivacyError:
            code = 42
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_fork_refuses_to_repeat_its_parents_words():
    stream, fresh = Keystream(KEY), Keystream(KEY)
    first = stream.words(3)
    assert outcome_in_fork(lambda: stream.words(1)) == 42
    assert outcome_in_fork(lambda: stream.words(0)) == 42
    assert outcome_in_fork(lambda: Keystream(KEY).words(1)) == 0
    assert outcome_in_fork(lambda: outcome_in_fork(lambda: stream.words(1)) == 42 or 1 / 0) == 0
    assert np.array_equal(np.concatenate([first, stream.words(3)]), fresh.words(6))


def test_a_fork_that_has_its_parents_number_refuses_as_well(monkeypatch):
    """Numbers of processes are used again: by a grandchild when its grandparent is gone, by the first of a container."""
    stream, number = Keystream(KEY), os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: number)
    assert outcome_in_fork(lambda: stream.words(1)) == 42


def test_a_process_forked_behind_pythons_back_refuses_as_well(monkeypatch):
    """Then no hook has counted the fork, and the number of the process tells."""
    stream, number = Keystream(KEY), os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: number + 1)
    with pytest.raises(PrivacyError, match="found a fork of it"):
        stream.words(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_thread_takes_words_refuses_and_does_not_wait():
    """The child has a copy of the held lock, and nobody in it who would let it go."""
    stream, held, finished = Keystream(KEY), threading.Event(), threading.Event()

    def hold():
        with stream._lock:
            held.set()
            finished.wait(timeout=120)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(timeout=60)
        assert outcome_in_fork(lambda: stream.words(1)) == 42
    finally:
        finished.set()
        thread.join(timeout=60)
    assert len(stream.words(1)) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_keystream_cannot_be_sent_to_another_process(method):
    context = multiprocessing.get_context(method)
    with pytest.raises(TypeError, match="cannot be copied"):
        context.Process(target=len, args=(Keystream(KEY),)).start()


def test_a_worker_forked_by_multiprocessing_refuses():
    stream = Keystream(KEY)
    worker = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(outcome_of(stream))
    )
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 42


def outcome_of(stream):
    try:
        stream.words(1)
    except PrivacyError:
        return 42
    return 0


def test_words_that_an_interruption_swallowed_are_not_handed_out_later():
    """Stopped after the first of four chunks: what comes next is what would have come after it."""

    class Interrupted:
        def __init__(self, encryptor):
            self.encryptor, self.calls = encryptor, 0

        def update_into(self, zeros, block):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            self.encryptor.update_into(zeros, block)

    stream, chunk = Keystream(KEY), 1 << 15
    stream._encryptor = Interrupted(stream._encryptor)
    with pytest.raises(KeyboardInterrupt):
        stream.words(4 * chunk)
    assert np.array_equal(stream.words(5), Keystream(KEY).words(chunk + 5)[-5:])


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


def test_the_distance_from_independent_words_is_that_of_blocks_that_do_not_repeat():
    """Exactly: b blocks without repetition are at distance 1 - prod (1 - i / 2^128), i < b, from independent ones."""
    with mpmath.workdps(90):
        for blocks in (2, 3, 1000):
            product = mpmath.fprod(1 - mpmath.mpf(i) / 2**128 for i in range(blocks))
            found = repetition_distance(2 * blocks - 2)  # and a part of one more
            assert 1 - product <= found <= (1 - product) * (1 + mpmath.mpf(10) ** -15)
    assert repetition_distance(0) == repetition_distance(1) == 0
    assert repetition_distance(2**32) == pytest.approx(2.0**-67)
