"""Strategies of a cheating server over several rounds, drawn at random.

Sessions go on, begin anew, overlap, or name keys of earlier ones; sites restart; rounds are skipped, asked again and left
open while some sites have gone on; what is of one transcript is sent to sites of another; sets are too small, or are
revealed by sites that did not sign. Most draws are those that get far: a strategy that every site refuses finds nothing.
"""

import itertools
import random
from collections import Counter
from dataclasses import replace

from cheating_server import ALIAS, MODELS, OWN, SAME, SECOND, Server, Sites, View

_KEPT = 20_000  # answers of sites, before memory matters


class Drawn:
    """One strategy as it is drawn: `moves`, and what later ones depend on."""

    def __init__(self, sites, rounds, coins):
        self._sites, self._coins = sites, coins
        self._announced = dict.fromkeys(sites.honest, 0)
        self._nonces = itertools.count(1)
        self._views = []
        self._late = []
        self.moves = []
        index = 0
        for _ in range(rounds):
            self._round(index)
            index += 1 + self._happens(0.1)
        self.moves += self._late

    def _round(self, index):
        """Setup and uploads, then what was kept back of the round before, then this one's own."""
        views = self._views_of_a_round()
        shown = {
            number: self._coins.choices([views[0], views[-1], None], [86, 8, 6])[0]
            for number in self._sites.honest
        }
        asked = [number for number in self._shuffled(shown) if shown[number]]
        self.moves += [("ask", number, index, shown[number]) for number in asked]
        self.moves += self._late
        self._late = []
        told, revealed = self._told(views, shown, asked)
        told += self._nonsense(index, asked)
        late = self._happens(0.15)
        self._late = revealed if late else []
        self.moves += self._shuffled(told) + ([] if late else self._shuffled(revealed))

    def _views_of_a_round(self):
        old = self._coins.choice(self._views) if self._views else None
        if old is None or self._happens(0.4):
            self._setup()
            old = self._fresh_view()
        first = replace(old, model=self._coins.choice(MODELS))
        self._views.append(first)
        return [first, self._variation(first)] if self._happens(0.5) else [first]

    def _setup(self):
        for number in self._sites.honest:
            if self._happens(0.05):
                self.moves.append(("restart", number))
            if self._happens(0.95) or not self._announced[number]:
                self.moves.append(("setup", number, next(self._nonces)))
                self._announced[number] += 1

    def _fresh_view(self):
        """The newest keys, mostly of everybody."""
        least = self._sites.thresholds.survivors - self._happens(0.05)
        everybody = self._sites.honest + self._sites.corrupt
        count = len(everybody) if self._happens(0.6) else self._coins.randint(least, len(everybody))
        places = [(number, self._announced[number] - 1) for number in self._sites.honest]
        stolen = [
            (number, self._coins.choices([OWN, ALIAS, SAME], [80, 15, 5])[0])
            for number in self._sites.corrupt[:1]
        ]
        return View(self._some(everybody, count), MODELS[0], tuple(places + stolen))

    def _variation(self, view):
        """Another model, a member less, another key of a corrupt site or an older one of an honest one, or another session."""
        keys = dict(view.variants)
        number = self._coins.choice(self._sites.honest)
        older = keys | {number: max(keys[number] - 1, 0)}
        other = keys | dict.fromkeys(self._sites.corrupt[:1], self._coins.choice([SECOND, ALIAS]))
        fewer = self._some(view.members, len(view.members) - 1)
        return self._coins.choice([
            replace(view, model=b"a third model"), replace(view, members=fewer), replace(view, variants=tuple(older.items())),
            replace(view, variants=tuple(other.items())), self._coins.choice(self._views),
        ])  # fmt: skip

    def _told(self, views, shown, asked):
        """(moves of the second trip, of the third): one path is in fashion, one or two sets are."""
        there = {
            view: [*(each for each in asked if shown[each] == view), *self._sites.corrupt]
            for view in views
        }
        sets = {
            view: [self._set_of(view, there[view]) for _ in range(1 + self._happens(0.3))]
            for view in views
        }
        weights = self._coins.choice(
            [[8, 1, 1, 0], [0, 9, 0, 1], [1, 9, 1, 1], [1, 1, 0, 0], [3, 3, 2, 2]]
        )
        told, revealed = [], []
        for number in asked:
            target = self._coins.choice(sets[shown[number]])
            path = self._coins.choices(["open", "sign", "silent", "unsigned"], weights)[0]
            told += {"open": [("open", number)], "sign": [("sign", number, target)]}.get(path, [])
            if path in ("sign", "unsigned") or self._happens(0.2):
                revealed.append(("reveal", number, target))
        return told, revealed

    def _set_of(self, view, there=()):
        """Mostly of those who are there, and as many as there are: another set has no sum."""
        most, least = len(view.members) - 1, self._sites.thresholds.survivors - self._happens(0.05)
        fit = [each for each in view.members if each in there]
        if least <= len(fit) and self._happens(0.8):
            return self._some(fit, max(least, min(most, len(fit) - self._happens(0.2))))
        return self._some(view.members, self._coins.randint(min(least, most), most))

    def _nonsense(self, index, asked):
        """Mostly none: what every site should refuse, or make nothing of."""
        found = []
        while asked and self._happens(0.5):
            number, other = self._coins.choice(asked), self._coins.choice(asked)
            view = self._coins.choice(self._views)
            some = self._set_of(view)
            found.append(self._coins.choice([
                ("ask", number, max(index - self._happens(0.3), 0), view), ("open", number, other), ("open", number),
                ("sign", number, some, other), ("sign", number, some), ("reveal", number, some, other),
                ("restart", number),
            ]))  # fmt: skip
        return found

    def _some(self, numbers, count):
        return tuple(sorted(self._coins.sample(numbers, max(count, 1))))

    def _shuffled(self, these):
        return self._coins.sample(list(these), len(these))

    def _happens(self, chance):
        return self._coins.random() < chance


class Search:
    """So many strategies over two and three rounds, of these rosters in turn, or as many as it takes to find something.

    Attributes:
        driven: strategies that were run. counts: what they came to.
        moves, findings: of the first that found something. sites: whose strategy that is.
    """

    def __init__(self, rosters, *, seed):
        self._sites = [Sites(constants, corrupt=corrupt) for constants, corrupt in rosters]
        self._coins = random.Random(seed)
        self.driven = 0
        self.counts = Counter()
        self.moves, self.findings, self.sites = None, [], None

    def run(self, strategies):
        for number in range(strategies):
            self.sites = self._sites[number % len(self._sites)]
            rounds = self._coins.choice((2, 3))
            moves = Drawn(self.sites, rounds, self._coins).moves
            server = Server(self.sites).play(moves)
            sums = server.sums()
            self.findings = server.findings(sums)
            self._count(server, sums)
            if self.findings:
                self.moves = moves
                break
            self.sites.forget(beyond=_KEPT)
        return self

    def _count(self, server, sums):
        self.driven += 1
        self.counts["uploads"] += len(server.sent)
        self.counts["sums"] += len(sums)
        self.counts["strategies with sums of two rounds"] += (
            len({uploads[0].kind[0] for uploads in sums}) > 1
        )
