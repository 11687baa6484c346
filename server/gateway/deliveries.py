"""What every node was given, and what it may therefore ask for and send: the gateway's memory.

    PullMessages             a message is delivered to a node, with a tree of objects; written down first
    PullObject, GetRun,      only for a message that was delivered to this very node, and is not confirmed yet
    GetFab, Confirm
    PushMessages             one reply to it, announced once; word for word again, if the answer was lost
    PushObject               only objects that the node has announced; each is passed on once

It is a small database in the coordinator's directory, so that a gateway which was killed at any moment goes on where
it was. Three moments deserve a word. *Killed after SuperLink has handed out a message, before it was written down:*
SuperLink hands a message out once, so it is lost; the coordinator's trip asks again before its deadline. *Killed, or
the site's connection lost, after it was written down:* a SuperNode that asks for messages again has not got the last
one, and is given it again (it handles one at a time, and confirms what it has got). *Killed while a reply was on its
way:* the SuperNode repeats the call, SuperLink takes an announcement twice, and of an object that it already has we
say so ourselves. A lost power supply may lose the last second; the trip mends that as well.

Memory is bounded: what has run out is forgotten, and only the coordinator makes messages. Signatures are remembered
until they run out, and a node may have no more of them than 20 000. Where the clock is set back, those that it had
forgotten do not count again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.gateway.checks import Announcement
from server.gateway.refusals import Refused

__all__ = ["Deliveries", "Delivery"]

_VERSION = 2
_TABLES = ("used", "forgotten", "nodes", "deliveries", "given", "announced")
_SCHEMA = """
CREATE TABLE used (key BLOB, stamp TEXT, until REAL, PRIMARY KEY (key, stamp)) WITHOUT ROWID;
CREATE TABLE forgotten (until REAL);
INSERT INTO forgotten VALUES (0);
CREATE TABLE nodes (key BLOB PRIMARY KEY, node TEXT) WITHOUT ROWID;
CREATE TABLE deliveries (
    message TEXT PRIMARY KEY, key BLOB, node TEXT, run TEXT, until REAL, answer BLOB,
    given INTEGER DEFAULT 0, confirmed INTEGER DEFAULT 0, reply BLOB, bytes INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE INDEX by_key ON deliveries (key);
CREATE TABLE given (object TEXT, message TEXT, PRIMARY KEY (object, message)) WITHOUT ROWID;
CREATE INDEX given_in ON given (message);
CREATE TABLE announced (
    object TEXT, message TEXT, children TEXT, stored INTEGER DEFAULT 0, PRIMARY KEY (object, message)) WITHOUT ROWID;
CREATE INDEX announced_in ON announced (message);
"""
_SIGNATURES = 20_000  # of one node within 305 s
_TIMES_GIVEN = 4
_NO_REPLY = b""  # in the place of the digest of one that is used up
_SLACK = 1.0  # seconds by which a reply's life may be off, as it is a difference of two times


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message that was delivered to the node of `key`; `until` when, in seconds since 1970. Node and run are ids."""

    message: str
    key: bytes
    node: int
    run: int
    until: float


class Deliveries:
    """The memory. Methods raise Refused where a node asks for what is not its own; times are seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            # Of another version nothing is kept: whoever is in the midst of a trip is asked again.
            gone = "".join(f"DROP TABLE IF EXISTS {each};" for each in _TABLES)
            self._database.executescript(
                f"BEGIN; {gone} {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT"
            )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # Nodes

    def use(self, key: bytes, stamp: str, until: float, now: float) -> None:
        """A signature counts once. Refused so that an honest node, which signs anew, tries again."""
        query = (
            "SELECT count(*), (SELECT until FROM forgotten) FROM used WHERE key = ? AND until > ?"
        )
        count, forgotten = self._one(query, key, now) or (0, 0.0)
        if count >= _SIGNATURES:
            raise Refused(503, "many-calls")
        if until <= forgotten or not self._run(
            "INSERT OR IGNORE INTO used VALUES (?, ?, ?)", key, stamp, until
        ):
            raise Refused(503, "used-signature")

    def learn(self, key: bytes, node: int) -> None:
        """SuperLink says that this key is of this node."""
        self._run("INSERT OR REPLACE INTO nodes VALUES (?, ?)", key, str(node))

    def check_node(self, key: bytes, node: int) -> bool:
        """Is it known that a node id is of this key? SuperLink checks every one. Raises Refused if it is of another."""
        row = self._one("SELECT node FROM nodes WHERE key = ?", key)
        if row is not None and row != (str(node),):
            raise Refused(401, "other-node")
        return row is not None

    # Messages

    def deliver(self, delivery: Delivery, objects: Mapping[str, object], answer: bytes) -> None:
        """Write down that a message goes to a node: the objects in its tree, and SuperLink's whole answer.

        A coordinator that goes on after its death may give SuperLink a message once more whose reply it had fetched and
        lost: then it is as if it had never been delivered.
        """
        with self._transaction():
            for table in ("given", "announced", "deliveries"):
                self._run(f"DELETE FROM {table} WHERE message = ?", delivery.message)  # noqa: S608  names of ours
            self._run(
                "INSERT INTO deliveries (message, key, node, run, until, answer) VALUES (?, ?, ?, ?, ?, ?)",
                delivery.message, delivery.key, str(delivery.node), str(delivery.run), delivery.until, answer,
            )  # fmt: skip
            rows = [(each, delivery.message) for each in objects]
            self._database.executemany("INSERT INTO given VALUES (?, ?)", rows)

    def again(self, key: bytes, now: float) -> tuple[str, bytes] | None:
        """A message, and the answer that brought it, that this node was given and has done nothing with."""
        return self._one(
            "SELECT message, answer FROM deliveries WHERE key = ? AND until > ? AND given < ? "
            "AND NOT confirmed AND reply IS NULL ORDER BY until LIMIT 1",
            key, now, _TIMES_GIVEN,
        )  # fmt: skip

    def give(self, message: str) -> None:
        """Count how often a message was given; after four times it is not given again."""
        self._run("UPDATE deliveries SET given = given + 1 WHERE message = ?", message)

    def check_run(self, key: bytes, run: int, now: float) -> None:
        """Raise Refused unless this node has a message of this run."""
        query = "SELECT 1 FROM deliveries WHERE key = ? AND run = ? AND until > ? LIMIT 1"
        self._require(self._one(query, key, str(run), now))

    def check_given(self, key: bytes, run: int, name: str, now: float) -> None:
        """Raise Refused unless this object stands in a message of this run that this node has not confirmed."""
        row = self._one(
            "SELECT 1 FROM given JOIN deliveries USING (message) "
            "WHERE object = ? AND key = ? AND run = ? AND until > ? AND NOT confirmed LIMIT 1",
            name, key, str(run), now,
        )  # fmt: skip
        self._require(row)

    def check_message(self, key: bytes, run: int, message: str, now: float) -> None:
        """Raise Refused unless this message of this run was delivered to this node."""
        query = "SELECT 1 FROM deliveries WHERE message = ? AND key = ? AND run = ? AND until > ?"
        self._require(self._one(query, message, key, str(run), now))

    def confirm(self, message: str) -> None:
        """The node has all of a message; SuperLink has deleted its objects."""
        self._run("UPDATE deliveries SET confirmed = 1, answer = NULL WHERE message = ?", message)

    # Replies

    def announce(self, key: bytes, reply: Announcement, now: float) -> None:
        """Write a reply down.

        Raises:
            Refused: no such message of this node, run and time; another reply to it was announced; an object in it
                is no new one. Then there is no other reply to it, so that nobody tries what objects there are.
        """
        row = self._one(
            "SELECT node, run, until, reply FROM deliveries WHERE message = ? AND key = ? AND until > ?",
            reply.reply_to, key, now,
        )  # fmt: skip
        self._require(row)
        node, run, until, earlier = row or ("", "", 0.0, None)
        if (node, run) != (str(reply.node), str(reply.run)) or reply.expires > until + _SLACK:
            raise Refused(403, "not-yours")
        if earlier is not None:
            if earlier != reply.digest:
                raise Refused(403, "second-reply")
            return
        taken = any(self._is_taken(key, each) for each in reply.objects)
        digest = _NO_REPLY if taken else reply.digest
        with self._transaction():
            self._run("UPDATE deliveries SET reply = ? WHERE message = ?", digest, reply.reply_to)
            rows = [
                (each, reply.reply_to, ",".join(sorted(children)))
                for each, children in reply.objects.items()
                if not taken
            ]
            self._database.executemany(
                "INSERT INTO announced (object, message, children) VALUES (?, ?, ?)", rows
            )
        if taken:
            raise Refused(403, "others-object")

    def charge_largely(self, key: bytes, length: int, most: int, now: float) -> None:
        """Count a large body before it is read, whatever it will turn out to be, to the reply that has had least.

        Raises:
            Refused: this node has announced nothing, or nothing of which as many bytes may yet come.
        """
        row = self._one(
            "SELECT message FROM deliveries WHERE key = ? AND until > ? AND reply IS NOT NULL ORDER BY bytes LIMIT 1",
            key, now,
        )  # fmt: skip
        if row is None:
            raise Refused(403, "nothing-announced")
        self.charge(row[0], length, most)

    def announced(
        self, key: bytes, run: int, name: str, now: float
    ) -> tuple[str, frozenset[str], bool]:
        """The message whose reply this object is of, its children, and whether SuperLink has it. Raises Refused."""
        row = self._one(
            "SELECT message, children, stored FROM announced JOIN deliveries USING (message) "
            "WHERE object = ? AND key = ? AND run = ? AND until > ? ORDER BY stored LIMIT 1",
            name, key, str(run), now,
        )  # fmt: skip
        self._require(row)
        message, children, stored = row or ("", "", 0)
        return message, frozenset(filter(None, children.split(","))), bool(stored)

    def charge(self, message: str, length: int, most: int) -> None:
        """Count bytes that came in reply to a message. Raises Refused if they are too many."""
        query = "UPDATE deliveries SET bytes = bytes + ? WHERE message = ? AND bytes + ? <= ?"
        if not self._run(query, length, message, length, most):
            raise Refused(413, "many-bytes")

    def store(self, message: str, name: str) -> None:
        """SuperLink has this object now."""
        self._run("UPDATE announced SET stored = 1 WHERE object = ? AND message = ?", name, message)

    def forget(self, now: float) -> None:
        """Forget what has run out."""
        with self._transaction():
            latest = "SELECT max(until) FROM (SELECT until FROM used WHERE until < ? UNION SELECT until FROM forgotten)"
            self._run(f"UPDATE forgotten SET until = ({latest})", now)  # noqa: S608  a query of ours
            self._run("DELETE FROM used WHERE until < ?", now)
            old = "message IN (SELECT message FROM deliveries WHERE until < ?)"
            for table in ("given", "announced", "deliveries"):
                self._run(f"DELETE FROM {table} WHERE {old}", now)  # noqa: S608  names of ours

    def _is_taken(self, key: bytes, name: str) -> bool:
        """Whether an object stands in anybody's instruction, or in a reply of somebody else.

        Even in one's own instruction: announced with other children, SuperLink would refuse the instruction, and all
        that are sent with it, when the coordinator sends it again.
        """
        return self._one(
            "SELECT 1 FROM given WHERE object = ? UNION ALL "
            "SELECT 1 FROM announced JOIN deliveries USING (message) WHERE object = ? AND key <> ? LIMIT 1",
            name, name, key,
        ) is not None  # fmt: skip

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # where the disk is full SQLite has done that itself
                self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    @staticmethod
    def _require(row: object) -> None:
        if row is None:
            raise Refused(403, "not-yours")

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with closing(self._database.execute(query, values)) as cursor:
            row: tuple[Any, ...] | None = cursor.fetchone()
        return row

    def _run(self, query: str, *values: object) -> int:
        with closing(self._database.execute(query, values)) as cursor:
            return cursor.rowcount
