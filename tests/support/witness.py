"""The judge of kill tests: everything that ever left a site's workers, held against its ledger's file.

It knows what was asked, what came over the wire, and what the workers said of where they were, and compares that with
the entries themselves, read as JSON, without trusting what the ledger's own code makes of them. What must hold, after
every kill and at the end:

* the export verifies, holds every receipt that was ever made, and continues what it was before;
* whatever was charged when `charge` returned is charged; nothing else is; nothing twice, nor more than declared;
* nothing is computed before it is charged, nor twice;
* a vector that was received, or a part of one, is charged, its bytes are stored, and there is one of a query;
* what was pending when no worker was alive is burnt, stays burnt, and is never answered;
* every file can be read by its owner alone.
"""

import hashlib
import json
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ledgers import key_of
from site_worker import ANSWER, LEDGER, ROUNDS, SITE, framed

from audit.verify import verify_export
from client.ledger import read_ledger
from privacy.errors import DiscreetError
from study.queries import SumAnswer
from study.receipts import ReceiptedAnswer, receipts_of

FILES = re.compile(re.escape(LEDGER) + r"(-wal|-shm|-journal|\.\w+\.new(-journal)?)?")


class ContradictionError(AssertionError):
    """The ledger does not say what happened."""


def require(condition, message):
    if not condition:
        raise ContradictionError(message)


@dataclass
class Witness:
    """What is known of one site from outside, and what its ledger said before.

    Attributes:
        asked: (study, index) by the hash of a query's bytes.
        vectors: all that was received, by (study, index); pieces: what was received of answers that a kill cut off.
        begun, charged, drawn: how often workers said that they were about to charge a query, that it was on the disk,
            that they were about to draw one of its keys.
        lines, receipts: of the export at the last check; opened: there is a ledger since.
        charges, burnt: what it held then; dead: what was pending then while no worker was alive.
    """

    directory: Path
    asked: dict = field(default_factory=dict)
    vectors: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    begun: Counter = field(default_factory=Counter)
    charged: Counter = field(default_factory=Counter)
    drawn: Counter = field(default_factory=Counter)
    lines: list = field(default_factory=list)
    receipts: list = field(default_factory=list)
    opened: bool = False
    charges: int = 0
    burnt: set = field(default_factory=set)
    dead: set = field(default_factory=set)

    def heard(self, said):
        """A worker said where it is."""
        place, at = (said["study"], said["index"]), said["at"]
        self.opened |= at == "opened"
        if at == "before":
            self.begun[place] += 1
        elif at == "charged":
            self.charged[place] += 1
        elif at == "drawing":
            self.drawn[*place, said["purpose"]] += 1
        elif at == "ready":
            require(said["without_flower"], "expected a worker without Flower")

    def received(self, content):
        """An answer came over the wire."""
        received = ReceiptedAnswer.from_bytes(content)
        place = self.asked.get(SumAnswer.from_bytes(received.answer).query_hash)
        require(place, "received an answer to a query that nobody asked")
        self.vectors.setdefault(place, set()).add(content)

    def cut_off(self, piece, study, index):
        """The beginning of a frame came over the wire, of this query, and no more."""
        if piece:
            self.pieces.append(((study, index), piece))

    def check(self, *, killed=None, alone=True):
        """Hold the ledger's file to all of this.

        Arguments:
            killed: where the one worker was told to wait when it was killed; None if it was running.
            alone: no worker is alive.
        """
        self._check_files()
        if not (self.directory / LEDGER).exists():
            require(not self.opened, "the ledger is gone")
            return
        self.lines, before = self._exported(), self.lines
        require(self.lines[: len(before)] == before, "entries of before are not there any more")
        verdict = self._verified()
        told = _told(self.lines)
        self.receipts = [each.to_line() for each in receipts_of(verdict.state, key_of(SITE))]
        self._check_vectors(told, set(self.receipts))
        self._check_charges(told, killed)
        self._check_burnt(told, verdict.state, alone=alone)

    def _exported(self):
        try:
            return [each.to_line() for each in read_ledger(self.directory / LEDGER)]
        except DiscreetError as error:
            raise ContradictionError(f"the ledger cannot be read: {error.message}") from error

    def _verified(self):
        try:
            return verify_export(self.lines, key_of(SITE).public, self.receipts)
        except DiscreetError as error:
            raise ContradictionError(f"the export does not verify: {error.message}") from error

    def _check_files(self):
        for path in self.directory.iterdir():
            require(FILES.fullmatch(path.name), f"{path.name} was left behind")
            require(
                stat.S_IMODE(path.stat().st_mode) == 0o600, f"{path.name} can be read by others"
            )

    def _check_charges(self, told, killed):
        charges = Counter(place for place, _ in told["charged"])
        self.charges = charges.total()
        require(
            max([*charges.values(), *self.charged.values()], default=0) <= 1,
            "a query was charged twice",
        )
        require(set(self.charged) <= set(charges), "a charge that was on the disk is not there")
        require(set(charges) <= set(self.begun), "a charge was made that nobody asked for")
        computed = {(study, index) for study, index, _ in self.drawn}
        require(computed <= set(charges), "a query was computed and is not charged")
        require(max(self.drawn.values(), default=0) <= 1, "a query was computed twice")
        if killed is not None and killed["at"] == "before":
            place = killed["study"], killed["index"]
            require(place not in charges, "a query was charged before its charge")
        count = Counter(study for study, _ in charges)
        require(max(count.values(), default=0) <= ROUNDS, "more queries were charged than declared")

    def _check_vectors(self, told, receipts):
        """What left: charged and stored before, one vector a query, the bytes that the ledger names."""
        charges, answers = dict(told["charged"]), dict(told["answered"])
        for place, found in self.vectors.items():
            sent = {ReceiptedAnswer.from_bytes(each).answer for each in found}
            require(len(sent) == 1, "two vectors were sent for one query")
            require(place in charges, "a vector was sent and its query is not charged")
            require(place in answers, "a vector was sent and its bytes are not stored")
            (answer,) = sent
            require(
                hashlib.sha256(answer).hexdigest() == answers[place]["answer"],
                "other bytes were sent than were stored",
            )
            asked = charges[place]["query"]
            require(SumAnswer.from_bytes(answer).query_hash == asked, "another query is charged")
            signed = {ReceiptedAnswer.from_bytes(each).signed.to_line() for each in found}
            require(signed <= receipts, "another receipt was sent than the ledger gives")
        for place, piece in self.pieces:
            require(place in answers, "a part of a vector was sent and its bytes are not stored")
            for content in self.vectors.get(place, ()):
                whole = framed(ANSWER + content)
                require(whole.startswith(piece), "a part of another vector was sent")

    def _check_burnt(self, told, state, *, alone):
        answered, burnt = ({place for place, _ in told[kind]} for kind in ("answered", "burnt"))
        require(self.burnt <= burnt, "a burnt query is not burnt any more")
        require(not burnt & answered, "a burnt query was answered")
        require(not burnt & set(self.vectors), "a vector of a burnt query was sent")
        require(not self.dead & answered, "what was pending at a kill was answered afterwards")
        self.burnt = burnt
        if alone:
            self.dead |= {
                (study, index)
                for study, account in state.studies.items()
                for index, each in account.asked.items()
                if each.status == "pending"
            }


def _told(lines):
    """What the entries say of queries, read from the JSON itself: kind -> [((study, index), body)]."""
    told = {kind: [] for kind in ("charged", "answered", "burnt")}
    for line in lines:
        entry = json.loads(line)["entry"]
        if entry["kind"] in told:
            body = entry["body"]
            told[entry["kind"]].append(((body["study"], body["index"]), body))
    return told
