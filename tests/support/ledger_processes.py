"""What processes of their own do with one ledger; each function runs in a new interpreter."""

import multiprocessing

from ledgers import approved, hash_named, key_of

from client.ledger import Ledger
from privacy.errors import BudgetError, LedgerError

_context = multiprocessing.get_context("spawn")


def at_once(task, *arguments):
    """Run `task(*arguments, number, barrier)` in two processes; what each returned."""
    barrier, queue = _context.Barrier(2), _context.Queue()
    started = [
        _context.Process(target=_run, args=(task, arguments, number, barrier, queue))
        for number in range(2)
    ]
    for each in started:
        each.start()
    found = dict(queue.get(timeout=120) for _ in started)
    for each in started:
        each.join(120)
        assert each.exitcode == 0
    return [found[0], found[1]]


def _run(task, arguments, number, barrier, queue):
    queue.put((number, task(*arguments, number, barrier)))


def charge_all(path, count, number, barrier):
    """Charge and answer every query of the study, in an order of one's own; which this process won."""
    ledger, study = Ledger(path, key_of("site"), durable=False), hash_named("study")
    won = []
    for step, index in enumerate(range(count) if number == 0 else reversed(range(count))):
        if step % 10 == 0:
            barrier.wait()  # else one may be done before the other has had its turn
        try:
            ledger.charge(study, index, "gradient", hash_named(f"query {index}"))
        except LedgerError:
            continue
        won.append(index)
        ledger.store(study, index, f"answer {index} of {number}".encode())
    ledger.close()
    return won


def charge_the_same(path, count, _number, barrier):
    """Charge each query at the same moment as the other process; which this one won."""
    ledger, won = Ledger(path, key_of("site"), durable=False), []
    for index in range(count):
        barrier.wait()
        try:
            ledger.charge(hash_named("study"), index, "gradient", hash_named(f"query {index}"))
            won.append(index)
        except LedgerError:
            pass
    ledger.close()
    return won


def approve_rivals(paths, number, barrier):
    """In each ledger approve a study of one's own, of which there is budget for one; where it was refused."""
    refused = []
    for path in paths:
        ledger = Ledger(path, key_of("site"), durable=False)
        barrier.wait()
        try:
            ledger.approve(approved(f"study {number}", count=2), [])
        except BudgetError:
            refused.append(path)
        ledger.close()
    return refused
