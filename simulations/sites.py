"""The sites of a simulation: each with a real ledger, a key of its own, and a budget that this very study fits in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client.answers import Entropy, Site
from client.ledger import Ledger, create_ledger
from client.policy import Policy
from client.registration import register
from client.tables import Records
from privacy.signing import SigningKey
from study.charging import least_budget
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.keyfiles import write_public_key
from study.roster import Roster, RosterSite, SignedRoster

__all__ = ["simulated_roster", "simulated_sites"]

_NAMESPACE, _DATA_SET = "simulation", "records"


def simulated_roster(names: Sequence[str], *, entropy: Callable[[str], Entropy]) -> SignedRoster:
    """The roster of a simulation, signed by a federation key of its own."""
    federation = SigningKey.from_seed(entropy("federation")("identity"))
    keys = {name: SigningKey.from_seed(entropy(name)("identity")) for name in names}
    roster = Roster(
        federation="simulation", key=federation.public.hex(),
        sites=tuple(RosterSite(name=name, key=key.public.hex()) for name, key in keys.items()),
    )  # fmt: skip
    return SignedRoster(roster=roster, signatures={}).signed_by(federation)


@contextmanager
def simulated_sites(
    declaration: Declaration,
    records: Mapping[str, Records],
    *,
    roster: Roster,
    entropy: Callable[[str], Entropy],
    directory: Path,
    policy: Callable[[], Policy] | None = None,
) -> Iterator[dict[str, Site]]:
    """Sites by name that have approved the study; `directory/NAME` holds `ledger.sqlite` and `site.pub`.

    What an interrupted run has left there is gone on with. At the end the ledgers are closed, whatever happened.

    Arguments:
        records: of every site, by name. roster: of these sites.
        entropy: reproducible keys of a party: what no real site ever uses.
        policy: that every site obeys; None: their operators are willing to do whatever is asked.
    """
    cap = least_budget(Guarantee(declaration))
    with ExitStack() as opened:
        sites = {}
        for name, each in records.items():
            key = SigningKey.from_seed(entropy(name)("identity"))
            ledger = _ledger(directory / name, name, key)
            opened.callback(ledger.close)
            if _DATA_SET not in ledger.state.data_sets:
                register(
                    ledger, data_set=_DATA_SET, namespace=_NAMESPACE, unit=declaration.study.data.unit,
                    identities=each.identities, cap=cap,
                )  # fmt: skip
            sites[name] = Site(ledger, entropy=entropy(name), policy=policy, allow_unsafe=True)
            if declaration.hash not in ledger.state.studies or not _is_over(ledger, declaration):
                sites[name].approve(declaration, each, data_set=_DATA_SET, roster=roster)
        yield sites


def _is_over(ledger: Ledger, declaration: Declaration) -> bool:
    return ledger.state.account(declaration.hash).closed


def _ledger(directory: Path, name: str, key: SigningKey) -> Ledger:
    """What a killed run has left half-made is made anew; where there is a ledger, its public key is whole."""
    path, public = directory / "ledger.sqlite", directory / "site.pub"
    directory.mkdir(parents=True, exist_ok=True)
    for half in directory.glob("*.new*"):
        half.unlink()
    if not path.exists():
        public.unlink(missing_ok=True)
        write_public_key(public, key)
        create_ledger(path, key, name, clock=_no_clock)
    return Ledger(path, key, clock=_no_clock, durable=False)


def _no_clock() -> float:
    """A simulation's ledgers follow from its seed, as all of its release does."""
    return 0.0
