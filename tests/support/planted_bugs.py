"""Bugs that a kill must bring to light. Each is planted into a worker's process by patching what production runs."""

import hashlib
from contextlib import contextmanager

from ledgers import key_of

from client.answers import RefusedError, Site
from client.ledger import Ledger
from privacy.errors import LedgerError
from study.ledger_entries import Charged
from study.queries import NONCE_BYTES, Refusal, SumAnswer, query_hash
from study.receipts import Receipt, ReceiptedAnswer, SignedReceipt

PLANTED = {}


def planted(function):
    PLANTED[function.__name__.replace("_", " ")] = function
    return function


def _key(query):
    return query.study, query.index


def _computed(site, query):
    """The bytes of an answer to it, as good as any."""
    study, name = site._approved[query.study], query_hash(query.to_bytes())
    vector = site._vector(study, query, site._mechanism(study, query))
    nonce = site._entropy("nonce", *_key(query))[:NONCE_BYTES]
    return SumAnswer(query_hash=name, vector=vector, nonce=nonce).to_bytes()


def _sent(site, query, answer):
    """An answer with a receipt of its charge; where there is none, with one that no ledger gives."""
    study, index = _key(query)
    asked = site._ledger.find(study, index)
    receipt = Receipt(
        study=study, index=index, transcript=query_hash(query.to_bytes()), sequence=asked.sequence if asked else 0,
        previous=asked.previous if asked else "0" * 64,
        head=asked.head if asked else "0" * 64, answer=hashlib.sha256(answer).hexdigest(),
    )  # fmt: skip
    signed = SignedReceipt.sign(receipt, key_of("site"))
    return ReceiptedAnswer(chain=(signed,), answer=answer).to_bytes()


def _send_what_is_not_stored(found):
    """Send an answer that `found`, given a query's study and number, has in its hands, as if it were stored."""
    kept = Site._kept

    def keeping(self, query):
        answer = found(_key(query))
        return kept(self, query) if answer is None else _sent(self, query, answer)

    Site._kept = keeping


@planted
def charged_after_it_was_computed(_worker):
    @contextmanager
    def paid(self, _study, query, name):
        ledger, stored = self._ledger, []
        ledger.store = lambda *arguments: stored.append(arguments)
        try:
            yield
        finally:
            del ledger.store
        ledger.charge(*_key(query), query.function, name)
        for each in stored:
            ledger.store(*each)

    Site._paid = paid


@planted
def charged_after_it_was_sent(worker):
    owed, send = [], worker.send

    def plain(self, _study, query, name):
        if not self._is_new(query, name):
            return self._kept(query)
        answer = _computed(self, query)
        owed.append((self._ledger, _key(query), query.function, name, answer))
        return _sent(self, query, answer)

    def sending(*arguments):
        send(*arguments)
        while owed:
            ledger, key, function, name, answer = owed.pop()
            ledger.charge(*key, function, name)
            ledger.store(*key, answer)

    Site._plain, worker.send = plain, sending


@planted
def stored_after_it_was_sent(worker):
    owed, send, store = {}, worker.send, worker.WatchedLedger.store

    def storing(self, study, index, answer):
        owed[study, index] = (self, answer)

    def sending(*arguments):
        send(*arguments)
        while owed:
            place, (ledger, answer) = owed.popitem()
            store(ledger, *place, answer)

    worker.WatchedLedger.store, worker.send = storing, sending
    _send_what_is_not_stored(lambda place: owed.get(place, (None, None))[1])


@planted
def charge_held_back_until_the_answer_is_stored(_worker):
    """One wait for the disk instead of two."""
    owed, charge, store = [], Ledger.charge, Ledger.store

    def storing(self, *arguments):
        while owed:
            charge(self, *owed.pop())
        store(self, *arguments)

    Ledger.charge = lambda _self, *arguments, **_witnessed: owed.append(arguments)
    Ledger.store = storing


@planted
def charge_rolled_back(_worker):
    """What the process remembers is charged; the disk does not know."""

    def charging(self, study, index, function, query, **_witnessed):
        self._database.execute("BEGIN IMMEDIATE")
        state = self._caught_up()
        terms = state.account(study).declared(function).terms
        body = Charged(
            salt="5a" * 16, study=study, index=index, function=function, query=query, terms=terms
        )
        self._write(state, body)
        self._database.execute("ROLLBACK")

    Ledger.charge = charging


@planted
def burnt_and_computed_again(_worker):
    kept = Site._kept

    def keeping(self, query):
        try:
            return kept(self, query)
        except RefusedError as refused:
            if refused.refusal != Refusal.UNAVAILABLE:
                raise
            return _sent(self, query, _computed(self, query))

    Site._kept = keeping


@planted
def pending_and_computed_again(_worker):
    """Nothing is burnt at the start; a charge without bytes is taken up where it was left."""
    kept = Site._kept

    def keeping(self, query):
        if self._ledger.find(*_key(query)).status == "pending":
            self._ledger.store(*_key(query), _computed(self, query))
        return kept(self, query)

    Ledger.burn_pending = lambda _self: 0
    Site._kept = keeping


@planted
def answered_anew_when_asked_again(_worker):
    plain = Site._plain

    def again(self, study, query, name):
        if self._is_new(query, name):
            return plain(self, study, query, name)
        return _sent(self, query, _computed(self, query))

    Site._plain = again


@planted
def sent_although_it_could_not_be_stored(worker):
    """No kill finds this one, but a disk that says no does."""
    lost, store = {}, worker.WatchedLedger.store

    def storing(self, study, index, answer):
        try:
            store(self, study, index, answer)
        except LedgerError:
            lost[study, index] = answer

    worker.WatchedLedger.store = storing
    _send_what_is_not_stored(lost.get)
