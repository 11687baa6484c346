"""Campaigns of killing: what a coordinator asks of a site whose worker is killed again and again, and what is counted.

After every kill a witness (`witness.py`) judges what is left.
"""

import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass

import site_worker
from site_worker import ANSWER, APPROVE, CLOSE, LEAVE, QUERY, ROUNDS
from witness import Witness, require

from study.queries import NONCE_BYTES, query_hash

WINDOWS = {
    "before the charge": ("before",),
    "charge to store": ("charged", "drawing", "computed"),
    "store to send": ("stored", "sending", "half"),
    "after the send": ("sent",),
}
WINDOW_OF = {at: window for window, each in WINDOWS.items() for at in each}
ELSEWHERE = "at another time"

_LONGEST_LINGER = 0.006  # seconds; about what a charge or a store takes
_RACED_STUDIES = 4


@dataclass
class Kill:
    """Where a worker is to be killed.

    Attributes:
        at: what it says there; `skip`: so many times it is let go on.
        linger: seconds after it was told to go on; None: while it waits.
    """

    at: tuple[str, ...]
    skip: int = 0
    linger: float | None = None


class _Killing:
    """What campaigns share: the witness, what is counted, and how a worker is killed."""

    def __init__(self, workers, directory, *, seed=0):
        self.witness, self.directory = Witness(directory), directory
        self.random = random.Random(seed)
        self.counts, self.kills = Counter(), Counter()
        self.points = 0
        self._workers = workers

    def query(self, study, index):
        """The bytes of a new query."""
        declaration = site_worker.declaration_of(study)
        content = site_worker.query_of(declaration, index, nonce=secrets.token_bytes(NONCE_BYTES))
        self.witness.asked[query_hash(content)] = (declaration.hash, index)
        return content

    def _started(self, **settings):
        self.counts["starts"] += 1
        return self._workers.start(self.directory, **settings)

    def _killed(self, worker, said, linger):
        """Kill a worker that waits where it `said`, or a little later. What it said last."""
        if linger is not None:
            worker.go_on()
            time.sleep(linger)
        worker.kill()
        while (later := worker.said()) is not None:
            self.witness.heard(later)
            said = later
        self._buried(worker, said)
        self.kills[WINDOW_OF.get(said["at"], ELSEWHERE)] += 1
        return said

    def _buried(self, worker, said=None):
        """Take what a dead worker left on the wire."""
        frames, piece = worker.left()
        for each in frames:
            self._taken(*each)
        if said is not None:
            self.witness.cut_off(piece, said["study"], said["index"])

    def _taken(self, kind, content):
        """A refusal's name; b"" for an answer, and for what was only done."""
        if kind == ANSWER:
            self.witness.received(content)
            self.counts["answers"] += 1
            return b""
        if content:
            self.counts[content.decode()] += 1
        return content


class Campaign(_Killing):
    """A coordinator and one worker: it asks query after query, after a kill the open one again, in the same bytes.

    Arguments:
        seed: of what is chosen here; what is drawn at the site is the operating system's.
        settings: of every worker.
    """

    def __init__(self, workers, directory, *, seed=0, **settings):
        super().__init__(workers, directory, seed=seed)
        self._settings, self._worker = settings, None
        self._study, self._index, self._open, self._over = 0, 0, b"", False
        self._earlier = []

    @property
    def alive(self):
        return self._worker is not None

    def start(self, kill=None, **settings):
        """A worker that is ready; False if it has died before."""
        self._worker = self._started(studies=[self._study], **self._settings | settings)
        return self._followed({"ready"}, kill) is not None

    def step(self, kill=None):
        """Ask the open query, or the next one. False if the worker has died meanwhile."""
        if self._over:
            return self._next_study()
        self._open = self._open or self.query(self._study, self._index)
        reply = self.ask(self._open, kill)
        if reply is None:
            return False
        if reply == b"TOO_MANY_QUERIES":
            self._over = True
        else:
            self._earlier.append((self._index, self._open))
            self._index, self._open = self._index + 1, b""
        return True

    def step_until(self, kill):
        """Go on until the worker has been killed there."""
        for _ in range(3 * ROUNDS):
            if not self.step(kill):
                return
        raise AssertionError(f"no worker ever came to be {kill.at}")

    def provoke(self, kill=None):
        """Ask what no honest coordinator asks: an earlier number with another content, or an earlier query again."""
        if not self._earlier:
            return True
        index, content = self.random.choice(self._earlier[-3:])
        if self.random.random() < 0.5:
            content = self.query(self._study, self.random.choice([index, self._index]))
        return self.ask(content, kill) is not None

    def ask(self, content, kill=None):
        """A refusal's name, or b"" for an answer; None if the worker has died."""
        self._worker.request(QUERY, content)
        self.counts["queries"] += 1
        if self._followed({"sent", "refused"}, kill) is None:
            return None
        return self._taken(*self._worker.reply())

    def leave(self):
        """Let the worker close its ledger and end. False if it has died before."""
        self._worker.request(LEAVE)
        if self._followed({"left"}) is None:
            return False
        self._buried(self._worker)
        self._worker = None
        return True

    def close(self):
        """The study is over. False if the worker has died meanwhile."""
        return self._commanded(CLOSE, self._study)

    def finish(self, queries=ROUNDS + 1):
        """Ask on until there were so many queries, close the study, let the worker go, and check."""
        for _ in range(3 * ROUNDS):
            if not self.alive:
                require(self.start(), "expected a worker that starts after a crash")
            elif not self._over and self._index < queries:
                self.step()
            elif self.close() and self.leave():
                self.witness.check()
                return
        raise AssertionError("the study never came to its end")

    def _next_study(self):
        if not (self.close() and self._commanded(APPROVE, self._study + 1)):
            return False
        self._study, self._index, self._open, self._over = self._study + 1, 0, b"", False
        self._earlier.clear()
        return True

    def _commanded(self, command, number):
        self._worker.request(command, str(number).encode())
        if self._followed({"done"}) is None:
            return False
        self._taken(*self._worker.reply())
        return True

    def _followed(self, ends, kill=None):
        """Let the worker go on until it says one of `ends`, which is returned; None if it has died."""
        last = None
        while (said := self._worker.said()) is not None:
            last, self.points = said, max(self.points, said["points"])
            self.witness.heard(said)
            if kill is not None and said["at"] in kill.at:
                if not kill.skip:
                    said = self._killed(self._worker, said, kill.linger)
                    self._worker = None
                    self.witness.check(killed=said if kill.linger is None else None)
                    return None
                kill.skip -= 1
            self._worker.go_on()
            if said["at"] in ends:
                return said
        self._buried(self._worker, last)
        self._worker = None
        self.counts["crashes"] += 1
        self.witness.check()
        return None


def kill_over_and_over(workers, directory, count, *, seed, checkpoint=0):
    """A campaign in which `count` workers are killed, in every window in turn, half of them while they run."""
    campaign = Campaign(workers, directory, seed=seed, checkpoint=checkpoint)
    for number in range(count):
        if number % 10 == 9:
            require(
                campaign.start() and campaign.leave(), "expected a worker that starts and leaves"
            )
        require(campaign.start(), "expected a worker that starts after a kill")
        campaign.provoke()
        at = campaign.random.choice(list(WINDOWS.values())[number % len(WINDOWS)])
        running = number // len(WINDOWS) % 2
        kill = Kill(
            (at,), skip=campaign.random.randrange(4) if at == "drawing" else 0,
            linger=campaign.random.uniform(0, _LONGEST_LINGER) if running else None,
        )  # fmt: skip
        campaign.step_until(kill)
    campaign.finish()
    return campaign


def crashed_everywhere(workers, place, play, *, kinds, when):
    """Play the same once for every point that it passes, with a first worker that comes to grief there.

    Arguments:
        place: makes an empty directory of this name.
        play: given a campaign and the settings of its first worker.
        kinds: what is a point (`site_worker.Console`); when: "before", "after", "fail".
    Returns:
        a campaign for each point.
    """
    whole, campaigns = Campaign(workers, place("whole")), []
    play(whole, {"kinds": kinds})
    for number in range(1, whole.points + 1):
        campaigns.append(Campaign(workers, place(f"{when}-{number}")))
        try:
            play(campaigns[-1], {"kinds": kinds, "crash": [number, when]})
        except AssertionError as error:
            error.add_note(f"{when} point {number} of {whole.points}: {', '.join(kinds)}")
            raise
    return campaigns


def two_queries(campaign, settings):
    """From no ledger at all to a study that is closed."""
    campaign.start(**settings)
    campaign.finish(queries=2)


def two_queries_and_a_kill(campaign, settings):
    """The same, but whoever has survived two queries is killed before the third is charged."""
    if campaign.start(**settings) and campaign.step() and campaign.step():
        campaign.witness.check(alone=False)
        campaign.step_until(Kill(("before",)))
    campaign.finish(queries=3)


class Race(_Killing):
    """Two workers of one site on one ledger, asked the same queries at once; either may be killed at any moment.

    Arguments:
        chance: of a kill whenever a worker says where it is.
    """

    def __init__(self, workers, directory, *, seed, chance):
        super().__init__(workers, directory, seed=seed)
        self._chance = chance
        self._both = {}
        self._asked = 0

    def round(self, *, chance=None):
        """Start who is dead, and ask both the same query, with this chance of a kill."""
        if not self.witness.opened:  # whoever makes a ledger second is told that it is there
            self._both[0] = self._started(studies=range(_RACED_STUDIES))
            self._interleaved({0}, {"ready"}, chance=0.0)
        new = {0, 1} - set(self._both)
        for each in new:
            self._both[each] = self._started(studies=range(_RACED_STUDIES))
        self._interleaved(new, {"ready"}, chance=chance)
        content = self.query(*divmod(self._asked, ROUNDS))
        self._asked += 1
        for each in self._both.values():
            each.request(QUERY, content)
            self.counts["queries"] += 1
        self._interleaved(set(self._both), {"sent", "refused"}, chance=chance)
        self.witness.check(alone=not self._both)

    def leave(self):
        """Let both go, one after the other, and check."""
        for each in self._both.values():
            each.request(LEAVE)
        self._interleaved(set(self._both), {"left"}, chance=0.0)
        for each in self._both.values():
            self._buried(each)
        self._both.clear()
        self.witness.check()

    def _interleaved(self, waiting, ends, *, chance=None):
        """Let workers go on, one at random a time, until each has said one of `ends` or is dead."""
        chance = self._chance if chance is None else chance
        while waiting:
            name = self.random.choice(sorted(waiting))
            worker, said = self._both[name], self._both[name].said()
            require(said is not None, "expected a worker that dies only if it is killed")
            self.witness.heard(said)
            if self.random.random() < chance:
                linger = self.random.choice([None, self.random.uniform(0, _LONGEST_LINGER)])
                self._killed(worker, said, linger)
                del self._both[name]
                waiting.discard(name)
                continue
            worker.go_on()
            if said["at"] in ends:
                waiting.discard(name)
                if said["at"] in ("sent", "refused"):
                    self._taken(*worker.reply())
