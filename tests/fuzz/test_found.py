"""What the fuzzer found stays mended: each of these inputs once ended in another exception, or was read."""

import base64
import io
import sqlite3
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from ledgers import key_of, ledger_of
from pyarrow import parquet

from client.ledger import Ledger, read_ledger
from client.tables import read_table
from privacy.accounting import delta_of, epsilon_of
from privacy.errors import DataError, DiscreetError, LedgerError, UserError
from privacy.events import SumEvent
from server.release import is_release
from simulations.workplace import workplace
from study.keyfiles import read_key
from study.settings import ImpossibleSettingError


def npy(array):
    out = io.BytesIO()
    np.save(out, np.array(array))
    return out.getvalue()


def npz(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("_npy", ".npy"), content)
    return out.getvalue()


TEXT = npy(["abc", "def"])
NPZ = {
    "a shape that takes all memory": (npz(a_npy=npy([1.0]).replace(b"(1,), ", b"(9999999999999,), ")),
    "not an .npz file"),
    "a header that is no expression": (npz(a_npy=npy([1.0]).replace(b"(1,), }", b"(1,     ")), "not an .npz file"),
    "a member that is no array": (npz(a_npy=npy([1.0]), b=b"text"), '"b" is not an array'),
    "text beyond Unicode": (npz(a_npy=TEXT.replace(b"a\0\0\0", b"a\0\0\xff")), "expected numbers or text"),
    "one column twice": (npz(a_npy=npy([1.0]), a=npy([2.0])), "columns 1 and 2 have the same name"),
    "a column twice, once among features": (
        npz(features_npy=npy([[1.0], [2.0]]), feature_0_npy=npy([3.0, 4.0])), "columns 1 and 2 have the same name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NPZ)
def test_a_numpy_file_that_is_damaged_is_refused_in_words(tmp_path, kind):
    content, message = NPZ[kind]
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "data.npz")


def test_numbers_wider_than_float64_are_read_without_a_warning(tmp_path):
    wide = npy([np.longdouble("1e400")] * 2)
    (tmp_path / "data.npz").write_bytes(npz(a_npy=wide))
    with pytest.raises(DataError, match="empty, NaN or infinite"):
        read_table(tmp_path / "data.npz").numbers("a")


def test_a_parquet_file_with_text_that_is_not_utf8_is_refused_in_words(tmp_path):
    path = tmp_path / "data.parquet"
    parquet.write_table(
        pa.table({"name": ["abcdefgh"]}), path, compression="NONE", use_dictionary=False
    )
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcd\xff\xfegh"))
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(path)


def test_a_private_key_of_31_bytes_is_no_key(tmp_path):
    der = bytes.fromhex("302d020100300506032b65700421041f" + "11" * 31)
    text, path = base64.encodebytes(der).decode(), tmp_path / "site.key"
    path.write_text(
        f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n", encoding="utf-8"
    )
    path.chmod(0o600)
    with pytest.raises(UserError, match="is not a private key in PEM form"):
        read_key(path)


def test_a_ledger_whose_tables_have_names_that_are_no_text_is_refused_in_words(tmp_path):
    """What SQLite says of it is not UTF-8 either."""
    path = tmp_path / "ledger.sqlite"
    ledger_of(path=path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    content = path.read_bytes()
    assert content.count(b"content BLOB NOT NULL, signature") == 1
    path.write_bytes(
        content.replace(
            b"content BLOB NOT NULL, signature", b"content BLOB NOT N\xed\xa0L, signature"
        )
    )
    with pytest.raises(LedgerError, match="cannot be used"):
        read_ledger(path)
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(path, key_of("site"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'"a"'])
def test_what_an_interrupted_simulation_left_is_read_in_words_if_it_is_damaged(tmp_path, content):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "options.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"), workplace(tmp_path / "out", {}, resume=True):
        pass


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"files": 1}', b'{"files": [[]]}']
)
def test_a_directory_whose_manifest_is_damaged_is_no_release(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    assert not is_release(tmp_path)


@pytest.mark.parametrize(("z", "q"), [(0.11, 0.5), (3.0, 1 - 1e-9)])
def test_a_study_that_protects_nobody_takes_no_memory_to_account_for(z, q):
    """25 GB, or a minute: whoever looks at a study that others have written pays for it."""
    hopeless = [SumEvent(noise_multiplier=z, sampling_rate=q, count=10**6)]
    tracemalloc.start()
    try:
        assert epsilon_of(hopeless, 1e-6) == np.inf
        assert delta_of(hopeless, 1.0) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "\u202eab", "a\x00b", "\ud800", "\u2028"])
def test_no_error_carries_what_acts_in_a_terminal_or_a_log(text):
    for error in (
        DiscreetError(text, hint=text),
        ImpossibleSettingError(text, expected=text, actual=text, hint=text),
    ):
        assert f"{error}{error.hint}".isprintable()
    assert DiscreetError("a\nb \u00e9").message == "a\\nb \u00e9"
