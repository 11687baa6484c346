"""Every strategy of a cheating server in one round.

A strategy shows each honest site a view or none, and then has it take the fast path, sign a set of survivors, or hears
no more of it. The reductions, and why each loses nothing:

* *Transcripts are worlds of their own.* A site is in one transcript a round, and what it replies depends on what it was
  sent alone. So if no mask's seed is of two transcripts, and no site takes what was sealed or asked under another, then
  what is learnable under several is the direct sum of what is under each, and a strategy is a product of strategies of
  single transcripts. That is not assumed: `worlds` compares the seeds of all uploads, and offers every site what other
  transcripts have. Views that fail are explored together.
* *Uploads come first.* What a site answers to a view depends on no other site's later trips. An honest site has one key:
  of two it holds the last, so a view that names another is one that it cannot take part in.
* *Everything that a site takes is a choice, and what it refuses is none.* Every view (all members, any keys, both models)
  and every set with the site in it is offered to it once in each phase; so are the other path, a second set and the
  same round again, after its choice. What it refuses leaves its state as it was, so strategies that hold such a move
  equal others without it.
* *All that corrupt sites can add is added at once.* A reply adds to what the server knows and hinders no other one: what
  a site refuses depends on its own past alone, and signatures come before reveals. More known seeds leave more
  combinations learnable, so what breaks a bound with fewer does with more. (Mixed models could hide that way if a seed
  were of two models; their views would be one world then, where silence counts.) So corrupt sites sign every set, deal
  to everybody, and open all that is sealed to them. Honest sites may still be silent, before or after a signature.
* *A set that is revealed without this very site's signature* is one that it could sign first, which would leave it as
  able as before: a signature only helps.
* *Honest sites are alike* to the server but for the sign of a mask, so the victim of a stolen key is site 1, and corrupt
  sites are the last. Two models are enough: what a third could be mixed with, the second can.
"""

import functools
import itertools
import math

from cheating_server import ALIAS, MODELS, OWN, SAME, SECOND, Server, Sites, View

from privacy.errors import PrivacyError
from privacy.secure_aggregation.thresholds import Thresholds


def rosters(*, sites=6, honest=(2, 3, 4), corrupt=(0, 1, 2)):
    """(constants, corrupt sites): all that `Thresholds` allows, with t and tau as small and k as large as they may be.

    Larger t and tau refuse more and recover less, so a strategy that finds something with these finds it with smaller
    ones as well.
    """
    found = []
    for active, bad in itertools.product(honest, corrupt):
        count = active + bad
        for colluding in range(max(bad, 1), count):
            for survivors in range(colluding + 1, count + 1):
                if count <= sites:
                    found += [(each, bad) for each in least_constants(count, colluding, survivors)]
    return sorted(found, key=lambda each: (each[0].sites, each[1], each[0].colluding))


def least_constants(count, colluding, survivors):
    """All pairs of t and tau of which neither can be smaller."""
    found = []
    for threshold, quorum in itertools.product(range(1, survivors + 1), repeat=2):
        if any(each.threshold <= threshold and each.quorum <= quorum for each in found):
            continue
        try:
            constants = Thresholds(
                sites=count, colluding=colluding, survivors=survivors, threshold=threshold, quorum=quorum,
                shares=survivors - colluding,
            )  # fmt: skip
        except PrivacyError:
            continue
        found.append(constants)
    return found


def subsets(members):
    """Ascending, the largest first; the empty one is none."""
    sizes = range(len(members), 0, -1)
    return [each for size in sizes for each in itertools.combinations(members, size)]


class OneRound:
    """Every strategy of one round of a roster.

    Attributes:
        takers: for every view, the honest sites that upload when they are shown it.
        paths: for each of them and a view, what it agrees to after that: (is it shown a view again, what is it told
            then, what set does it reveal).
        driven: strategies that were run. stands_for: how many there are, as products of single transcripts.
        sums: sets of honest sites of which a sum was learnt.
        moves, findings: of the first strategy that found something.
        sites: whose strategies these are.
    """

    def __init__(self, thresholds, *, corrupt):
        self.sites = Sites(thresholds, corrupt=corrupt)
        self.beginning = [("setup", number, 1) for number in self.sites.honest]
        self._begun = Server(self.sites).play(self.beginning)
        self.takers = {view: takers for view in self._views() if (takers := self._takers_of(view))}
        self.paths = {
            (number, view): self._paths_of(number, view)
            for view, takers in self.takers.items()
            for number in takers
        }
        self.driven, self.sums = 0, set()
        self.stands_for = math.prod(
            1 + sum(len(paths) for (who, _), paths in self.paths.items() if who == number)
            for number in self.sites.honest
        )
        self.moves, self.findings = None, []

    def explore(self, *, names_matter=False):
        """Run them all, or as many as it takes to find something.

        Arguments:
            names_matter: also run those that are others with models or a corrupt site's two keys renamed.
        """
        for world in self.worlds:
            if names_matter or not all(_renamed(view) for view in world):
                self._explore_world(world)
            if self.findings:
                break
        return self

    @functools.cached_property
    def worlds(self):
        """Lists of views: those that share a seed or a transcript, or of which a site takes what is of another's."""
        views, marks = list(self.takers), {}
        for view, takers in self.takers.items():
            uploads = self._shown(dict.fromkeys(takers, view)).sent
            marks[view] = set().union(*(sent.row.keys() | {sent.transcript} for sent in uploads))
        together = {view: {view} for view in views}
        for one, other in itertools.combinations(views, 2):
            if together[one] is not together[other] and (
                not marks[one].isdisjoint(marks[other]) or self._mixable(one, other)
            ):
                together[one] |= together[other]
                together |= dict.fromkeys(together[other], together[one])
        distinct = {id(each): each for each in together.values()}
        return [sorted(each, key=views.index) for each in distinct.values()]

    def _views(self):
        """Members, the key of the first corrupt site, and the model, whether or not any site agrees to that."""
        first = self.sites.corrupt[:1]
        variants = [((number, key),) for number in first for key in (OWN, SECOND, SAME, ALIAS)]
        for members in subsets(self.sites.honest + self.sites.corrupt):
            for variant in variants if set(first) & set(members) else [()]:
                yield from (View(members, model, variant) for model in MODELS)

    def _takers_of(self, view):
        return [number for number in self.sites.honest if self._begun.copy().ask(number, 0, view)]

    def _shown(self, views):
        server = self._begun.copy()
        for number, view in views.items():
            server.ask(number, 0, view)
        return server

    def _mixable(self, one, other):
        """Does a site that was shown the one take what comes from those who were shown the other, or the reverse?"""
        return any(
            self._takes(number, mine, stranger, theirs)
            for mine, theirs in ((one, other), (other, one))
            for number in self.takers[mine]
            for stranger in self.takers[theirs]
            if stranger != number
        )

    def _takes(self, number, mine, stranger, theirs):
        """Everybody was shown the one, but for a stranger: is what it has sealed, or was sent, of use to this site?"""
        server = self._shown(dict.fromkeys(self.takers[mine], mine) | {stranger: theirs})
        own = next(each for each in subsets(mine.members)[1:] if number in each)
        return any(
            _does(server.copy(), move)
            for move in (
                ("open", number, stranger),
                ("sign", number, own, stranger),
                ("reveal", number, own, stranger),
            )
        ) or (stranger in mine.members and self._takes_share(server, number, mine, stranger))

    def _takes_share(self, server, number, mine, stranger):
        """Does it open, on either path, what the stranger has sealed under another transcript?"""
        sets = [each for each in subsets(mine.members)[1:] if {number, stranger} <= set(each)]
        signed = server.copy()
        for each in self.takers[mine] if sets else ():
            signed.sign(each, sets[0])
        return server.open(number) or any(signed.reveal(number, each) for each in sets[:1])

    def _paths_of(self, number, view):
        server = self._shown(dict.fromkeys(self.takers[view], view))
        found = [((), None)]
        again = [False] + [True] * self._asked_again(server, number)
        for told, after in self._told(server, number, view):
            again += [True] * self._asked_again(after, number)
            target = next((each for name, _, *each in told if name == "sign"), [None])[0]
            found += [(told, each) for each in {None: None, target: None}]
        return [(more, *rest) for more in dict.fromkeys(again) for rest in found]

    def _asked_again(self, server, number):
        """Does it upload to the same round once more, whatever it is shown?"""
        return any(
            number in takers and server.copy().ask(number, 0, view)
            for view, takers in self.takers.items()
        )

    def _told(self, server, number, view):
        """(moves, server after them). After the first, the other path is offered and all other sets: all to be refused."""
        signs = [("sign", number, each) for each in subsets(view.members) if number in each]
        for first in [("open", number), *signs]:
            after = server.copy()
            if not _does(after, first):
                continue
            moves = (first, *(each for each in signs if each != first and _does(after, each)))
            yield moves, after.copy()
            if first[0] == "sign" and _does(after, ("open", number)):
                yield (*moves, ("open", number)), after

    def _explore_world(self, world):
        views = [
            [None, *(view for view in world if number in self.takers[view])]
            for number in self.sites.honest
        ]
        for shown in itertools.product(*views):
            asked = {
                number: view for number, view in zip(self.sites.honest, shown, strict=True) if view
            }
            begun = self._shown(asked)
            for paths in itertools.product(*(self.paths[each] for each in asked.items())):
                moves = _moves_of(asked, paths)
                self._judge(begun.copy().play(moves))
                if self.findings:
                    uploads = [("ask", number, 0, view) for number, view in asked.items()]
                    self.moves = self.beginning + uploads + moves
                    return

    def _judge(self, server):
        sums = server.sums()
        self.driven += 1
        self.sums |= {frozenset(sent.site for sent in uploads) for uploads in sums}
        self.findings = server.findings(sums)


def _renamed(view):
    return view.model == MODELS[1] or any(key == SECOND for _, key in view.variants)


def _does(server, move):
    name, *arguments = move
    return getattr(server, name)(*arguments)


def _moves_of(asked, paths):
    """What comes after the uploads: what sites are told, last those that are asked twice, then reveals."""
    moves = []
    for (number, view), (again, told, _) in sorted(
        zip(asked.items(), paths, strict=True), key=lambda each: each[1][0]
    ):
        moves += [("ask", number, 0, view)] * again
        moves += told
    reveals = zip(asked, paths, strict=True)
    return moves + [("reveal", number, target) for number, (_, _, target) in reveals if target]
