"""Bugs that a kill must bring to light. Each is planted into a worker's process by patching what production runs."""

from contextlib import suppress

from client.answers import RefusedError, Site
from client.ledger import Ledger
from privacy.errors import LedgerError
from study.ledger_entries import Charged
from study.queries import Refusal

PLANTED = {}


def planted(function):
    PLANTED[function.__name__.replace("_", " ")] = function
    return function


def _computed(site, study, query, name):
    return site._computed(study, query, name).to_bytes()


@planted
def charged_after_it_was_computed(_worker):
    def anew(self, study, query, name):
        key = (query.declaration.hash, query.index)
        answer = _computed(self, study, query, name)
        self._ledger.charge(*key, query.function, name)
        self._ledger.store(*key, answer)
        return answer

    Site._anew = anew


@planted
def charged_after_it_was_sent(worker):
    owed, send = [], worker.send

    def anew(self, study, query, name):
        answer = _computed(self, study, query, name)
        key = (query.declaration.hash, query.index)
        owed.append((self._ledger, key, query.function, name, answer))
        return answer

    def sending(*arguments):
        send(*arguments)
        while owed:
            ledger, key, function, name, answer = owed.pop()
            ledger.charge(*key, function, name)
            ledger.store(*key, answer)

    Site._anew, worker.send = anew, sending


@planted
def stored_after_it_was_sent(worker):
    owed, send, store = [], worker.send, worker.WatchedLedger.store

    def sending(*arguments):
        send(*arguments)
        while owed:
            store(*owed.pop())

    worker.WatchedLedger.store = lambda *arguments: owed.append(arguments)
    worker.send = sending


@planted
def charge_held_back_until_the_answer_is_stored(_worker):
    """One wait for the disk instead of two."""
    owed, charge, store = [], Ledger.charge, Ledger.store

    def storing(self, *arguments):
        while owed:
            charge(self, *owed.pop())
        store(self, *arguments)

    Ledger.charge = lambda _self, *arguments: owed.append(arguments)
    Ledger.store = storing


@planted
def charge_rolled_back(_worker):
    """What the process remembers is charged; the disk does not know."""

    def charging(self, study, index, function, query):
        self._database.execute("BEGIN IMMEDIATE")
        state = self._caught_up()
        terms = state.account(study).declared(function).terms
        body = Charged(study=study, index=index, function=function, query=query, terms=terms)
        self._write(state, body)
        self._database.execute("ROLLBACK")

    Ledger.charge = charging


@planted
def burnt_and_computed_again(_worker):
    answer = Site._answer

    def answering(self, query, name):
        try:
            return answer(self, query, name)
        except RefusedError as refused:
            if refused.refusal != Refusal.UNAVAILABLE:
                raise
            return _computed(self, self._approved[query.declaration.hash], query, name)

    Site._answer = answering


@planted
def pending_and_computed_again(_worker):
    """Nothing is burnt at the start; a charge without bytes is taken up where it was left."""
    answer = Site._answer

    def answering(self, query, name):
        key = (query.declaration.hash, query.index)
        asked = self._ledger.find(*key)
        if asked is None or asked.status != "pending":
            return answer(self, query, name)
        found = _computed(self, self._approved[key[0]], query, name)
        self._ledger.store(*key, found)
        return found

    Ledger.burn_pending = lambda _self: 0
    Site._answer = answering


@planted
def answered_anew_when_asked_again(_worker):
    def again(self, asked, name):
        return _computed(self, self._approved[asked.charge.study], self.query, name)

    answer = Site._answer

    def answering(self, query, name):
        self.query = query
        return answer(self, query, name)

    Site._again, Site._answer = again, answering


@planted
def sent_although_it_could_not_be_stored(worker):
    """No kill finds this one, but a disk that says no does."""
    store = worker.WatchedLedger.store

    def storing(self, *arguments):
        with suppress(LedgerError):
            store(self, *arguments)

    worker.WatchedLedger.store = storing
