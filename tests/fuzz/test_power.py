"""The fuzzer finds bugs: each of these, planted in a reader, fails some case of a short run."""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzzing.engine import run
from fuzzing.targets import TARGETS
from safetensors.numpy import load

import client.answers
import client.ledger
import client.tables
import privacy.secure_aggregation.site
import server.checkpoint
import study.codec
import study.contract
import study.envelope
import study.freezing
import study.keyfiles
import study.ledger_entries
import study.ledger_state
import study.queries
import study.receipts
import study.roster
import study.settings
import study.settings_file
from privacy.errors import ProtocolError, UserError
from privacy.filters import LifetimeCap
from privacy.secure_aggregation import messages
from study.canonical import parse_canonical

SEED = 1
CASES = 20_000  # the rarest bug fails one case in about two thousand


def nothing(*_arguments, **_named):
    """In place of a check."""


def lenient_decode(data):
    """Reads the head and the arrays, and does not ask whether they would be written so."""
    length = int.from_bytes(data[:4], "big")
    try:
        head = parse_canonical(data[4 : 4 + length])
        return dict(head), dict(load(data[4 + length :]))
    except Exception as error:
        raise ProtocolError("Expected a message") from error


def fits_truth_as_number(value, hint, fits=study.settings.fits):
    return fits(int(value) if type(value) is bool and hint in (int, float) else value, hint)


def bounds_of_any_size(name, bounds):
    numbers = (
        isinstance(bounds, tuple)
        and len(bounds) == 2
        and all(type(each) in (int, float) for each in bounds)
    )
    study.contract._require(numbers and bounds[0] < bounds[1], name, "two numbers", bounds)


def value_without_a_look(hint, raw, value=study.ledger_entries._value):
    return (
        raw
        if getattr(hint, "__origin__", None) is tuple and not isinstance(raw, list)
        else value(hint, raw)
    )


def checked_without_nan(self, query_hash, dimension, dtype, largest):
    if (
        self.query_hash != query_hash
        or self.vector.shape != (dimension,)
        or self.vector.dtype != np.dtype(dtype)
    ):
        raise ProtocolError("Expected an answer to this query")
    if (np.abs(self.vector.astype(np.float64)) > largest).any():
        raise ProtocolError("Expected numbers within the range of one site")
    return self.vector


def charge_on_any_terms(self, body, entry, charge=study.ledger_state.LedgerState._charge):
    declared = (
        self.studies[body.study].declared(body.function) if body.study in self.studies else None
    )
    charge(self, dataclasses.replace(body, terms=declared.terms) if declared else body, entry)


def agree_on_anything(self, body, _entry):
    """Of what was answered, masked or not, any number of sums."""
    self._open_account(body.study)


def approve_without_a_roster(self, body, entry, approve=study.ledger_state.LedgerState._approve):
    approve(self, dataclasses.replace(body, roster="0" * 64), entry)


def change_by_half(self, before, check=study.roster.SignedRoster.check_change):
    """Two of four sites are enough."""
    try:
        check(self, before)
    except ProtocolError as error:
        if not error.message.endswith("found 2"):
            raise


@staticmethod
def answer_unlike_its_receipt(data):
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < end:
        raise ProtocolError("Expected more")
    chain = study.receipts.chain_from_values(parse_canonical(data[4:end]))
    return study.receipts.ReceiptedAnswer(chain=chain, answer=data[end:])


def apply_in_any_order(self, entry):
    study.ledger_state._RULES[type(entry.body)](self, entry.body, entry)
    self.entries, self.head, self.time = self.entries + 1, entry.hash, entry.time


def refuse_and_show(self, column, wrong, what, hint):
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise client.tables.DataError(f"{self.columns[column][rows[0]]} {what}", hint=hint)


def number_or_nan(cell, number_of=client.tables._number_of):
    found = number_of(cell)
    return 0.0 if found is None else found


def shown_key(path, content=study.keyfiles._content):
    if b"-----END PRIVATE KEY-----\n" not in content(path):
        raise UserError(f"{content(path)!r} is no key")
    return content(path)


def kept_sum_of_any_type(index, head, arrays):
    try:
        kept = server.checkpoint.KeptSum(
            **{name: head[name] for name in ("index", "function", "round", "query_hash", "refusals")},
            survivors=tuple(head["survivors"]), missing=tuple(head["missing"]), total=arrays.get("total"),
            seconds=float(head["seconds"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("Expected another sum") from error
    if kept.index != index or kept.to_values() != head:
        raise ProtocolError("Expected another sum")
    return kept


PLANTED = {
    "receipts in any spelling": ("receipt", [(study.receipts, "parse_canonical", json.loads)],
    "not canonical|documented"),
    "messages in any spelling": ("query", [(study.queries, "decode", lenient_decode)],
    "written otherwise|no message|the judge cannot read it"),
    "true for 1": ("study", [(study.settings, "fits", fits_truth_as_number)], "cannot be (True|False)"),
    "bounds beyond 2^53": ("study", [(study.contract, "_require_bounds", bounds_of_any_size)], "data.bounds cannot be"),
    "unknown settings": ("study", [(study.settings_file, "_refuse_unknown", nothing)], "is unknown|is no section"),
    "unknown rules": ("policy", [(study.settings_file, "_refuse_unknown", nothing)], "is unknown"),
    "numbers of a study with six digits": (
        "study", [(study.freezing, "toml_value", lambda v, to=study.freezing.toml_value: f"{v:.6e}"
            if type(v) is float else to(v))],
        "read as something else",
    ),
    "any limits": ("policy", [(study.settings, "_within", lambda _value, _limits: True)], "cannot be"),
    "a missing key": ("answer", [(study.queries, "_require_keys", nothing)], "found KeyError|no answer"),
    "NaN": ("unsafe-answer", [(study.queries.SumAnswer, "checked", checked_without_nan)], "not finite"),
    "a number where a list belongs": ("entry", [(study.ledger_entries, "_value", value_without_a_look)],
    "found TypeError"),
    "names of any kind": ("entry", [(study.ledger_entries, "_require_name", nothing)], "nothing that a ledger says"),
    "an entry that nobody signed": ("signed-entry", [(study.ledger_entries, "verify", nothing)], "nobody signed it"),
    "an export that nobody signed": ("export", [(study.ledger_entries, "verify", nothing)], "another history"),
    "a receipt that nobody signed": ("receipts", [(study.receipts, "verify", nothing)], "signed no such receipt|found"),
    "a chain with holes": ("export", [(study.ledger_state.LedgerState, "apply", apply_in_any_order)],
    "another history"),
    "charges on other terms": ("forged-export", [(study.ledger_state._RULES, study.ledger_entries.Charged,
    charge_on_any_terms)],
                               "beyond what was approved"),
    "a budget without an end": ("forged-export", [(LifetimeCap, "holds", lambda *_, **__: True)],
    "budget is exceeded"),
    "noise that is not there": ("forged-export", [(study.ledger_entries.SumTerms, "check_noise", nothing)],
    "do not give the noise"),
    "masks that hide nobody": ("forged-export", [(study.ledger_entries.SumTerms, "check_thresholds", nothing)],
    "masks do not hide"),
    "masks among nobody": ("forged-export", [(study.ledger_state._RULES, study.ledger_entries.Approved,
    approve_without_a_roster)], "masked among nobody"),
    "a second sum of one query": ("forged-export", [(study.ledger_state._RULES, study.ledger_entries.Agreed,
    agree_on_anything)], "a sum is agreed on|too few survive"),
    "receipts of anything": ("query", [(study.queries, "_receipts", dict)], "it is no query|receipts are lost|no attribute"),
    "a majority without an honest site": ("roster-change", [(study.roster.SignedRoster, "check_change",
    change_by_half)], "of four sites have changed it"),
    "a roster that nobody has to sign": ("roster-change", [(study.roster, "verify", nothing)],
    "of four sites have changed it|the federation's"),
    "two members of one name": ("roster", [(study.roster.Roster, "__post_init__", nothing)], "it is no roster"),
    "bytes behind a message": ("aggregation", [(messages._Reader, "end", nothing)], "bytes behind it|written otherwise"),
    "a receipt of another answer": ("receipted-answer", [(study.receipts.ReceiptedAnswer, "from_bytes",
    answer_unlike_its_receipt)], "receipt is of another answer"),
    "members who have not signed": ("masked-site", [(privacy.secure_aggregation.site, "setup_key_of", nothing)],
    "a member has not signed"),
    "survivors whom nobody has signed": ("masked-site", [(privacy.secure_aggregation.site, "_require_signatures",
    nothing)], "nobody could have asked"),
    "a sum that is not written down": ("masked-site", [(client.ledger.Ledger, "agree", nothing)],
    "not what its ledger says"),
    "sums of any type": ("kept-sum", [(server.checkpoint, "_kept_sum", kept_sum_of_any_type)],
    "it is no sum|other arrays|found (Type|Value)Error"),
    "parameters of any shape": ("site", [(client.answers, "check_parameters", nothing)], "not approved"),
    "a refusal in a site's words": (
        "envelope", [(study.envelope, "rules_of", lambda reason: [type("Rule", (), {"explanation": str(reason)})()])],
        "words of our own",
    ),
    "a cell in a message": ("csv", [(client.tables.Table, "refuse", refuse_and_show)], "does not show what is secret"),
    "text as zero": ("csv", [(client.tables, "_number_of", number_or_nan)], "a (feature|label) is no"),
    "values beyond their bounds": ("csv", [(client.tables, "_within", lambda table, _study, name,
    *_: table.numbers(name))], "beyond its bounds"),
    "a key in a message": ("private-key", [(study.keyfiles, "_content", shown_key)], "does not show what is secret"),
}  # fmt: skip


def plant(monkeypatch, owner, name, value):
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, name, value)
    else:
        monkeypatch.setattr(owner, name, value)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(monkeypatch, bug):
    name, patches, found = PLANTED[bug]
    TARGETS[name].seeds()  # made by the writers as they are
    for owner, attribute, value in patches:
        plant(monkeypatch, owner, attribute, value)
    tally = run(TARGETS[name], seed=SEED, numbers=range(CASES))
    assert tally.failures, f"not found in {tally.cases} cases"
    assert re.search(found, tally.failures[0].what), tally.failures[0].what


def greedy(data):
    """Makes room for what a header declares."""
    header = re.search(rb'"shape":\[([0-9]{1,18})\]', data)
    if header:
        np.ones(int(header[1]), dtype=np.uint8)
    return study.codec.decode(data)


def slow(data):
    """Counts to a number that the message holds."""
    head, arrays = study.codec.decode(data)
    for _ in range(int(abs(head.get("index", 0))) if isinstance(head.get("index"), int) else 0):
        nothing()
    return head, arrays


def noisy(data):
    if b"NaN" in data:
        warnings.warn("not a number", stacklevel=1)
    return study.codec.decode(data)


def careless(data):
    """Forgets a file when it refuses."""
    opened = Path(__file__).open("rb")  # noqa: SIM115  that is the bug
    found = study.codec.decode(data)
    opened.close()
    return found


@pytest.mark.parametrize(
    ("read", "found"),
    [(greedy, "found MemoryError"), (slow, "found _TooMuchWork"), (noisy, "found UserWarning"), (careless,
    "nothing left open")],
)  # fmt: skip
def test_a_reader_that_is_greedy_slow_noisy_or_careless_is_found(read, found):
    tally = run(dataclasses.replace(TARGETS["message"], read=read), seed=SEED, numbers=range(CASES))
    assert tally.failures, f"not found in {tally.cases} cases"
    assert found in tally.failures[0].what
