"""A masked study means the same constants to every party, and none that do not carry secure aggregation."""

import itertools

import pytest
from ledgers import hash_named, key_of

from privacy.errors import PrivacyError, ProtocolError, StudyError
from privacy.secure_aggregation.thresholds import MOST_SITES, Thresholds
from study.aggregation import federation_of
from study.contract import MASKED
from study.guarantee import Guarantee, declare
from study.roster import Roster, RosterSite
from study.settings import ImpossibleSettingError

NONCE = "0123456789abcdef" * 2


def roster_of(count, **changed):
    sites = tuple(
        RosterSite(name=f"site {each}", key=key_of(f"site {each}").public.hex())
        for each in range(count)
    )
    return Roster(
        federation="hearts", key=key_of("federation").public.hex(), sites=sites, **changed
    )


@pytest.fixture
def guarantee(make_study, declared):
    """Of a study with this trust for these many sites, of one roster or of none."""

    def guarantee_of(
        sites=5, *, colluding=1, missing=0, trust="aggregate", roster=None, **settings
    ):
        privacy = {"trust": trust, "max_colluding": colluding, "max_dropouts": missing}
        study = make_study(privacy=privacy, sites={"minimum": min(sites, 128)}, **settings)
        return Guarantee(declared(study, sites=sites, roster=roster and roster.hash))

    return guarantee_of


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_a_federation_is_that_of_the_declaration_and_the_roster(guarantee, trust):
    roster = roster_of(5)
    one = guarantee(
        trust=trust, missing=1, roster=roster, training={"rounds": 7, "spare_rounds": 2},
        data={"scaling": "standard", "bounds": {"default": (0.0, 1.0)}},
    )  # fmt: skip
    found = federation_of(one, roster)
    assert found.study.hex() == one.declaration.hash
    assert found.roster.hex() == roster.hash
    assert found.identities == tuple(key_of(f"site {each}").public for each in range(5))
    assert found.thresholds == one.thresholds
    assert (
        found.rounds == 1 + 7 + 2
    )  # the moments, rounds and spares: every query number that there may be


@pytest.mark.parametrize(
    "other",
    [
        roster_of(5, number=2, previous=roster_of(5).hash), roster_of(5, colluding=2), roster_of(4), roster_of(6),
        Roster(federation="lungs", key=key_of("federation").public.hex(), sites=roster_of(5).sites),
        Roster(federation="hearts", key=key_of("federation").public.hex(), sites=roster_of(5).sites[::-1]),
    ],
)  # fmt: skip
def test_a_study_of_another_roster_is_refused(guarantee, other):
    with pytest.raises(ProtocolError, match="declared for this roster, found one for another"):
        federation_of(guarantee(roster=roster_of(5)), other)


def test_a_study_of_no_roster_is_refused(guarantee):
    with pytest.raises(ProtocolError, match="declared for this roster"):
        federation_of(guarantee(), roster_of(5))


@pytest.mark.parametrize("count", [4, 6])
def test_a_study_for_another_number_of_sites_than_its_roster_has_is_refused(guarantee, count):
    roster = roster_of(count)
    with pytest.raises(ProtocolError, match="declared for this roster"):
        federation_of(guarantee(5, roster=roster), roster)


def test_thresholds_are_those_of_the_survivors(guarantee):
    """t = tau = m = n - D; k honest shares with aggregate, the coordinator's one with server."""
    for trust, shares in (("aggregate", 4), ("server", 1)):
        found = guarantee(9, colluding=2, missing=3, trust=trust).thresholds
        assert found == Thresholds(
            sites=9, colluding=2, survivors=6, threshold=6, quorum=6, shares=shares
        )


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_a_study_is_masked_if_and_only_if_n_is_more_than_c_and_2_d(make_study, guarantee, trust):
    """Every n to 9, c and D: the contract, the declaration, the guarantee and the inequalities say the same."""
    sound = 0
    for n, c, d in itertools.product(range(1, 10), range(1, 10), range(9)):
        m = n - d
        inequalities = m >= 1 and 2 * m > n + c  # of t = tau = m all three are this one
        assert inequalities == (n > c + 2 * d)
        if n > c + 2 * d:
            one = guarantee(n, colluding=c, missing=d, trust=trust)
            one.check()
            at = one.thresholds
            assert (at.sites, at.colluding, at.survivors, at.threshold, at.quorum) == (
                n,
                c,
                m,
                m,
                m,
            )
            assert at.shares == (m - c if trust == "aggregate" else 1) >= 1
            assert federation_of(
                guarantee(n, colluding=c, missing=d, trust=trust, roster=roster_of(n)), roster_of(n)
            )
            sound += 1
        else:
            privacy = {"trust": trust, "max_colluding": c, "max_dropouts": d}
            with pytest.raises(ImpossibleSettingError, match="sites.minimum: expected"):
                make_study(privacy=privacy, sites={"minimum": n})
            with pytest.raises(PrivacyError, match="Expected (t, tau|2 tau)"):
                Thresholds(
                    sites=n, colluding=c, survivors=m, threshold=m, quorum=m, shares=max(1, m - c)
                )
    assert (
        sound
        == sum(1 for n in range(1, 10) for c in range(1, n) for d in range(9) if n > c + 2 * d)
        > 60
    )


def test_more_sites_than_can_be_masked_are_refused_and_without_masks_they_are_not(guarantee):
    guarantee(MOST_SITES).check()
    guarantee(MOST_SITES + 1, trust="local").check()
    for trust in ("aggregate", "server"):
        with pytest.raises(PrivacyError, match=f"n <= {MOST_SITES}"):
            guarantee(MOST_SITES + 1, trust=trust).check()


def test_such_a_study_is_not_declared_either(make_study):
    study = make_study(privacy={"trust": "aggregate"})
    with pytest.raises(StudyError, match=f"n <= {MOST_SITES}"):
        declare(study, sites=MOST_SITES + 1, nonce=NONCE)
    one = declare(study, sites=5, nonce=NONCE, roster=hash_named("roster"))
    assert one.roster == hash_named("roster")


@pytest.mark.parametrize("trust", ["aggregate", "server", "local", "unsafe"])
def test_ledgers_and_guarantees_agree_on_what_is_masked(declared, trust):
    privacy = {"trust": trust} | ({"noise_multiplier": None} if trust == "unsafe" else {})
    assert Guarantee(declared(privacy=privacy)).masked is (trust in MASKED)
