"""Trips: one signed instruction to each of several sites, and what comes back before the deadline.

Flower loses a message when the node that has taken it dies. So whoever is silent is asked again, with the same bytes: a
site answers them with what it has sent before. Whoever cannot be reached is waited for, but not for the whole trip.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import is_message, message_of
from privacy.signing import SigningKey
from server.journal import Heard, Journal, Pushed, TripJournal
from study.envelope import content_of, is_unreachable, query_message, refusal_code_of, refusal_of
from study.instructions import opened_reply, signed_instruction
from study.queries import NONCE_BYTES
from study.readiness import readiness_question
from study.receipts import ReceiptedAnswer
from study.refusals import explained, refusal_in
from study.roster import Roster

__all__ = ["Trips", "Waits", "Way"]

_MOST_DOUBLINGS = 6
_HASTY = 2.0  # seconds within which sites that are ready mostly have said so
_LONGEST_READY = 300.0  # between two questions whether a site is
_AWAY = "it is not connected"
_SLOWEST = 1_000_000  # bytes a second: a large instruction is given the time to arrive before it is sent anew


@dataclass(frozen=True, kw_only=True)
class Waits:
    """For how long, in seconds.

    Attributes:
        trip: until whoever has not answered is missing.
        again: until whoever is silent is asked again; the second time twice as long, and so on.
        unreachable: until a site that Flower does not reach is missing; 0: it is at once.
        ready: until sites that were not ready are asked again whether they are; the second time twice as long, and so
            on; 0: they are not asked.
        poll: between two looks for replies.
    """

    trip: float = 600.0
    again: float = 20.0
    unreachable: float = 0.0
    ready: float = 0.0
    poll: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Way:
    """How sites are reached.

    Attributes:
        nodes: the Flower node of every site that is there now, by name; asked anew all the time.
        key: the coordinator's, which signs every instruction; None: nothing is signed, and nobody asks for it.
        warn: told what the operator should know, in a sentence.
        waiting: told what is being waited for, in a sentence that is empty as soon as nothing is.
    """

    nodes: Callable[[], Mapping[str, int]]
    key: SigningKey | None = None
    waits: Waits = Waits()
    warn: Callable[[str], None] = lambda _warning: None
    waiting: Callable[[str], None] = lambda _what: None


class Trips:
    """The way to the sites of one study.

    Arguments:
        names: of the sites, in the order of the roster.
        roster: their identities, by which replies are known where instructions are signed.
        journal: of the query that is under way.
        on_message: told of every message and reply: query, trip, site, what was said each way, and bytes; None: nobody
            is, and no message is read for it.
    """

    def __init__(
        self,
        grid: Grid,
        names: Sequence[str],
        way: Way,
        *,
        roster: Roster | None = None,
        journal: Journal | None = None,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._grid, self.names, self._way = grid, list(names), way
        self._journal = journal or Journal(None)
        self._on_message = on_message
        self._identities: dict[str, bytes] = {}
        if way.key is not None:
            if roster is None:
                raise ProtocolError("Expected a roster, by whose keys signed replies are known")
            self._identities = dict(zip(names, roster.identities, strict=True))

    def ask(
        self, contents: Mapping[str, bytes], *, index: int, trip: str, least: int = 0
    ) -> dict[str, Heard]:
        """Send each site its message; every one of them has a reply afterwards, in the order of the roster.

        Arguments:
            contents: by site name. index: of the query that the trip is for. trip: its name, for the trace.
            least: nobody is asked before so many of them are there: a query that too few can answer would only cost.
        """
        contents = {name: contents[name] for name in self.names if name in contents}
        asking = self._trip(self._journal, contents, index)
        asking.wait_for(least)
        asking.run()
        replies = {name: asking.heard[name] for name in contents}
        if self._on_message is not None:
            for name, reply in replies.items():
                self._on_message(_traced(index, trip, name, contents[name], reply))
        return replies

    def wait_until_ready(self, study: str, *, least: int, index: int) -> None:
        """Return when so many sites are there and say that they take part in a study: for as long as it takes.

        Arguments:
            study: its hash. index: of the query that is asked next.
        """
        if self._way.waits.ready:
            contents = dict.fromkeys(self.names, readiness_question(study))
            self._trip(Journal(None), contents, index).run_until_ready(least)

    def _trip(self, journal: Journal, contents: Mapping[str, bytes], index: int) -> _Trip:
        fresh = {name: secrets.token_bytes(NONCE_BYTES) for name in contents}
        trip = journal.trip(contents, fresh)
        sealed = {
            name: self._signed(name, each, trip.nonces[name]) for name, each in contents.items()
        }
        return _Trip(
            self._grid, self._way, trip, contents=sealed, identities=self._identities, index=index
        )

    def _signed(self, name: str, content: bytes, nonce: bytes) -> bytes:
        if self._way.key is None:
            return content
        return signed_instruction(
            content, to=self._identities[name], key=self._way.key, nonce=nonce
        )


class _Trip:
    """One trip, from its first message to its last reply or its deadline."""

    def __init__(
        self, grid: Grid, way: Way, journal: TripJournal, *, contents: Mapping[str, bytes],
        identities: Mapping[str, bytes], index: int,
    ) -> None:  # fmt: skip
        self._grid, self._way, self._journal, self._index = grid, way, journal, index
        self._contents, self._identities = contents, identities
        self._began = time.monotonic()
        self._due = dict.fromkeys(contents, 0.0)  # when a site is asked next
        self._times = dict.fromkeys(contents, 0)
        self._asked: dict[str, Pushed] = {}  # by message id
        self._hints: dict[str, str] = {}  # what is known of a site that has not answered
        self._patient = False  # nobody is given up

    @property
    def heard(self) -> Mapping[str, Heard]:
        """What has come back, by site."""
        return self._journal.heard

    @property
    def _waiting(self) -> list[str]:
        return [name for name in self._contents if name not in self._journal.heard]

    def wait_for(self, least: int) -> None:
        """Wait until so many sites are there, for as long as it takes; not if some have been asked already."""
        said = ""
        while not self._journal.pushed:
            away = sorted(self._contents.keys() - self._way.nodes().keys())
            if len(self._contents) - len(away) >= least:
                break
            what = _waiting_for(
                least, self._contents, "connected", f"not connected: {', '.join(away)}"
            )
            if what != said:
                self._way.waiting(what)
            said = what
            time.sleep(1.0)
        if said:
            self._way.waiting("")
        self._began = time.monotonic()

    def run(self) -> None:
        """Push; pull until all have replied or the deadline has passed."""
        unheard = [each for each in self._journal.pushed if each.site in self._waiting]
        self._push([each for each in unheard if each.run == self._grid.run.run_id])
        while self._waiting:
            self._exchange()
            if self._waiting and self._elapsed() >= self._way.waits.trip:
                self._journal.hear({name: self._late(name) for name in self._waiting})
            elif self._waiting:
                time.sleep(self._way.waits.poll)

    def run_until_ready(self, least: int) -> None:
        """Push; pull until so many sites have said that they are ready, for as long as it takes, and say for whom.

        Whoever refuses is asked again, with the same bytes, later and later; a yes counts whenever it comes.
        """
        self._patient, said = True, ""
        self._exchange()
        while len(self.heard) < least:
            what = _waiting_for(least, self._contents, "ready", self._reasons())
            if what != said and self._elapsed() >= _HASTY:
                self._way.waiting(what)
                said = what
            time.sleep(self._way.waits.poll)
            self._exchange()
        self._way.waiting("")

    def _exchange(self) -> None:
        self._push(self._messages_due())
        self._hear(self._grid.pull_messages(sorted(self._asked)))

    def _reasons(self) -> str:
        """What keeps every site that has not answered, as far as is known."""
        return "; ".join(
            f"{name}: {self._hints.get(name, 'it has not answered yet')}" for name in self._waiting
        )

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _messages_due(self) -> list[Pushed]:
        """Messages to whoever is there and is to be asked now, written down before they are sent."""
        now = self._elapsed()
        due = [name for name in self._waiting if self._due[name] <= now]
        nodes = self._way.nodes() if due else {}
        new = [
            Pushed(run=self._grid.run.run_id, site=name, node=nodes[name], created=time.time())
            for name in due
            if name in nodes
        ]
        self._absent(name for name in due if name not in nodes)
        if new:
            self._journal.push(new)
        return new

    def _push(self, messages: Sequence[Pushed]) -> None:
        if not messages:
            return
        made = [
            query_message(
                self._contents[each.site], index=self._index, node_id=each.node, seconds=self._way.waits.trip,
                created=each.created,
            )
            for each in messages
        ]  # fmt: skip
        for each, number in zip(messages, self._grid.push_messages(made), strict=False):
            if number:
                self._asked[number] = each
            else:
                self._way.warn(
                    f"SuperLink did not take the message to {each.site}; it is sent again later"
                )
            moving = len(self._contents[each.site]) // _SLOWEST
            if self._hints.get(each.site) == _AWAY:
                del self._hints[each.site]
            self._later(each.site, self._way.waits.again + moving)
            self._times[each.site] += 1

    def _later(self, name: str, pause: float) -> None:
        """When to ask a site again: the more often it was asked, the later."""
        pause *= 2 ** min(self._times[name], _MOST_DOUBLINGS)
        self._due[name] = self._elapsed() + (min(pause, _LONGEST_READY) if self._patient else pause)

    def _hear(self, messages: Iterable[Message]) -> None:
        """Take replies: of the very node that was asked, signed by the very site, and only the first."""
        heard: dict[str, Heard] = {}
        for message in messages:
            asked = self._asked.get(message.metadata.reply_to_message_id)
            if asked is None or asked.site in self._journal.heard or asked.site in heard:
                continue
            if is_unreachable(message):
                del self._asked[message.metadata.reply_to_message_id]
                self._times[asked.site] = 0  # it was not there to be asked
                self._absent([asked.site])
            elif message.metadata.src_node_id == asked.node:
                del self._asked[message.metadata.reply_to_message_id]
                found = self._opened(asked.site, message)
                if found is not None and found.problem and self._patient:
                    self._hints[asked.site] = found.problem
                    self._later(asked.site, self._way.waits.ready / 2)  # it was asked once already
                elif found is not None:
                    heard[asked.site] = found
        if heard:
            self._journal.hear(heard)

    def _absent(self, names: Iterable[str]) -> None:
        """Flower does not reach these: for a while they are looked for again every second."""
        gone = {}
        for name in names:
            if self._patient:
                self._hint(name, _AWAY)
            elif self._elapsed() >= self._way.waits.unreachable:
                gone[name] = Heard(problem="it could not be reached")
            else:
                self._due[name] = self._elapsed() + min(1.0, self._way.waits.again)
        if gone:
            self._journal.hear(gone)

    def _opened(self, name: str, message: Message) -> Heard | None:
        """What a site has said; None if it was somebody else, or cannot be known to be the site."""
        problem = refusal_of(message)
        try:
            content = b"" if problem else content_of(message)
        except ProtocolError as error:
            content, problem = b"", error.message
        if name not in self._identities:
            return Heard(content=content, problem=problem, refusal=refusal_code_of(message))
        if problem:
            self._hint(name, problem)
            return None
        try:
            payload = opened_reply(
                content, instruction=self._contents[name], site=self._identities[name]
            )
            refused = refusal_in(payload)
        except ProtocolError as error:
            self._way.warn(
                f"{name}: a reply came that its identity has not signed; has its node key been stolen? {error.message}"
            )
            self._hint(name, "a reply came that it has not signed")
            return None
        if refused is None:
            return Heard(content=payload)
        return Heard(problem=explained(*refused), refusal=refused[0])

    def _hint(self, name: str, problem: str) -> None:
        """Anybody may have said that: the site is asked again, and it is the reason if no better one comes."""
        self._hints[name] = problem
        pause = min(1.0, self._way.waits.again)
        if self._patient and problem != _AWAY:
            self._later(name, pause)  # or whoever lies all the time would be asked all the time
        else:
            self._due[name] = self._elapsed() + pause

    def _late(self, name: str) -> Heard:
        hint = self._hints.get(name)
        return Heard(problem="it did not answer in time" + (f": {hint}" if hint else ""))


def _traced(index: int, trip: str, site: str, content: bytes, reply: Heard) -> dict[str, Any]:
    """A message and its reply, as a line of a trace."""
    return {
        "query": index, "trip": trip, "site": site, "sent": kind_of(content), "sent_bytes": len(content),
        "received": kind_of(reply.content), "received_bytes": len(reply.content), "problem": reply.problem,
    }  # fmt: skip


def _waiting_for(least: int, sites: Sized, what: str, others: str) -> str:
    return f"Waiting until {least} of {len(sites)} sites are {what}; {others}"


def kind_of(content: bytes) -> str:
    """What a message is, in a word, for a trace."""
    with suppress(ProtocolError):
        if is_message(content):
            return type(message_of(content)).__name__
        inner = ReceiptedAnswer.from_bytes(content).answer
        return type(message_of(inner)).__name__ if is_message(inner) else "SumAnswer"
    return "SumQuery" if content else "nothing"
