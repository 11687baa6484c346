"""`discreet federation`: which sites belong together, by key, and who may say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discreet.commands.shared import Json, read_as
from discreet.console import errors_explained, print_json, print_table, results, say
from privacy.errors import ProtocolError, UserError

if TYPE_CHECKING:
    from study.roster import Roster, RosterSite, SignedRoster

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Which sites belong together, by their keys: the roster. Membership is not the server's to decide.\n\n"
    "A federation key signs the first roster, and stays off the server. Every site compares its fingerprint and pins "
    "it. "
    "Start with: discreet federation init DIR --name NAME --site NAME=FILE.pub --site ...",
)  # fmt: skip

RosterFile = Annotated[
    Path, typer.Argument(metavar="ROSTER", help="A roster, such as roster.json.")
]
Site = Annotated[
    list[str],
    typer.Option("--site", metavar="NAME=FILE", help="A site and its public key, site.pub; again for each."),
]  # fmt: skip
Before = Annotated[
    Path | None, typer.Option("--before", metavar="FILE", help="The version before, which everybody has pinned.")
]  # fmt: skip
Fingerprint = Annotated[
    str, typer.Option(help="Of the roster, as the others have it: compare it by telephone, not by mail alone.")
]  # fmt: skip


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new directory, off the server.")
    ],
    name: Annotated[str, typer.Option(help="What the federation is called.")],
    site: Site,
    colluding: Annotated[
        int,
        typer.Option(
            min=1, help="Sites that may collude when the sites change the roster themselves."
        ),
    ] = 1,
    json: Json = False,
) -> None:
    """Make a federation: its key, and the first roster, signed.

    Writes federation.key (keep it off the server, and a copy of it in a safe), federation.pub and roster.json, which
    goes to every site. A site's public key lies beside its ledger: discreet ledger register makes both.

    Example: discreet federation init lab --name "Heart failure" --site north=north/site.pub --site south=south/site.pub
    """  # fmt: skip
    from study.files import write_new
    from study.keyfiles import create_key, write_public_key
    from study.roster import Roster, SignedRoster

    with errors_explained(), _roster_explained():
        sites = _sites(site)
        Roster(
            federation=name, key="0" * 64, colluding=colluding, sites=sites
        )  # before anything is written
        directory.mkdir(parents=True, exist_ok=True)
        key = create_key(directory / "federation.key")
        write_public_key(directory / "federation.pub", key)
        roster = Roster(federation=name, key=key.public.hex(), colluding=colluding, sites=sites)
        signed = SignedRoster(roster=roster, signatures={}).signed_by(key)
        write_new(directory / "roster.json", signed.to_bytes(), 0o644)
        say(
            f"Wrote {directory / 'federation.key'}: keep it off the server. Send roster.json to every site."
        )
        _show(signed, json)


@app.command()
def show(roster: RosterFile, before: Before = None, json: Json = False) -> None:
    """Show a roster: its sites, their keys, who has signed it, and the fingerprint that everybody compares.

    Example: discreet federation show lab/roster.json
    """
    with errors_explained(), _roster_explained():
        signed = _read(roster)
        if before is None:
            signed.check_signed()
        else:
            signed.check_change(_read(before).roster)
        _show(signed, json)


@app.command()
def change(
    roster: RosterFile,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new version.")],
    add: Annotated[
        list[str], typer.Option("--add", metavar="NAME=FILE", help="A site that joins, and its public key.")
    ] = [],  # noqa: B006  Typer copies it
    remove: Annotated[list[str], typer.Option("--remove", metavar="NAME", help="A site that leaves.")] = [],  # noqa: B006
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The federation's key, to sign it. Or its sites sign.")
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Write the next version of a roster. It counts once the federation's key, or enough of the sites, have signed it.

    Studies that are under way go on with the roster that they were declared for; a new one is declared for the new one.

    Example: discreet federation change lab/roster.json --add east=east.pub --key lab/federation.key --out roster-2.json
    """
    from study.files import write_new
    from study.keyfiles import read_key
    from study.roster import SignedRoster

    with errors_explained(), _roster_explained():
        before = _read(roster)
        names = [each.name for each in before.roster.sites]
        strangers = sorted(set(remove) - set(names))
        if strangers:
            raise UserError(
                f"--remove {strangers[0]}: no site of the roster", hint=f"it has {', '.join(names)}"
            )
        kept = tuple(each for each in before.roster.sites if each.name not in remove)
        after = replace(
            before.roster,
            number=before.roster.number + 1,
            previous=before.roster.hash,
            sites=kept + _sites(add),
        )
        signed = SignedRoster(roster=after, signatures={})
        if key is not None:
            signed = signed.signed_by(read_key(key))
            signed.check_change(before.roster)
        write_new(out, signed.to_bytes(), 0o644)
        say(f"Wrote {out}." + ("" if key else " Let the sites sign it: discreet federation sign"))
        _show(signed, json)


@app.command()
def sign(
    roster: RosterFile,
    before: Annotated[Path, typer.Option("--before", metavar="FILE", help="The version that this site has pinned.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="This site's key, site.key, or the federation's.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The roster with one more signature.")],
    json: Json = False,
) -> None:  # fmt: skip
    """Sign a new version of a roster, as one of the sites of the version before.

    Example: discreet federation sign roster-2.json --before roster.json --key north/site.key --out roster-2-north.json
    """
    from study.files import write_new
    from study.keyfiles import read_key

    with errors_explained(), _roster_explained():
        signed, earlier, secret = _read(roster), _read(before).roster, read_key(key)
        if secret.public.hex() != earlier.key:
            earlier.number_of(secret.public)
        if (signed.roster.number, signed.roster.previous) != (earlier.number + 1, earlier.hash):
            raise UserError(f"{roster} is not the version after {before}")
        signed = signed.signed_by(secret)
        write_new(out, signed.to_bytes(), 0o644)
        _show(signed, json)


@app.command()
def pin(
    roster: RosterFile,
    site_dir: Annotated[Path, typer.Option("--site-dir", metavar="DIR", help="The site's directory, with site.pub.")],
    fingerprint: Fingerprint,
    before: Before = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Pin a roster at a site: from now on it takes part with these sites, and no others.

    The fingerprint has to come another way than the file. A later version is pinned over the one that it follows, if
    the federation's key or enough of its sites have signed it.

    Example: discreet federation pin roster.json --site-dir north --fingerprint 1a2b-3c4d-5e6f-7890-1a2b-3c4d-5e6f-7890
    """
    from study.files import write_whole
    from study.keyfiles import read_public_key

    with errors_explained(), _roster_explained():
        signed, pinned = _read(roster), site_dir / "roster.json"
        if signed.roster.fingerprint != fingerprint.strip().lower():
            raise UserError(
                f"Expected the roster {fingerprint}, found {signed.roster.fingerprint}",
                hint="ask the federation, by another way than the one that the file came by",
            )
        number = signed.roster.number_of(read_public_key(site_dir / "site.pub"))
        if pinned.exists():
            current = _read(pinned).roster
            if current != signed.roster:
                signed.check_change(current)
        elif before is not None:
            signed.check_change(_read(before).roster)
        else:
            signed.check_signed()
        write_whole(pinned, signed.to_bytes())
        say(f"Pinned {pinned}: this is site {number}, {signed.roster.names[number]}.")
        _show(signed, json)


def _show(signed: SignedRoster, json: bool) -> None:
    from privacy.signing import fingerprint

    roster = signed.roster
    sites = {each.name: fingerprint(bytes.fromhex(each.key)) for each in roster.sites}
    signers = _signers(roster, signed)
    if json:
        print_json(
            {
                "federation": roster.federation, "number": roster.number, "fingerprint": roster.fingerprint,
                "hash": roster.hash, "sites": sites, "signed_by": signers,
            }
        )  # fmt: skip
        return
    rows = sites | {
        "signed by": ", ".join(signers) or "nobody yet",
        "fingerprint": roster.fingerprint,
    }
    print_table(
        f"{roster.federation}, version {roster.number}, {len(sites)} sites", rows, to=results
    )


def _signers(roster: Roster, signed: SignedRoster) -> list[str]:
    names = {roster.key: "the federation"} | {each.key: each.name for each in roster.sites}
    return sorted(names.get(key, "a site that leaves") for key in signed.signatures)


def _sites(given: list[str]) -> tuple[RosterSite, ...]:
    from study.keyfiles import read_public_key
    from study.roster import RosterSite

    sites = []
    for each in given:
        name, found, path = each.partition("=")
        if not found:
            raise UserError(f"{each}: expected NAME=FILE", hint="such as north=north/site.pub")
        sites.append(RosterSite(name=name, key=read_public_key(Path(path)).hex()))
    return tuple(sites)


def _read(path: Path) -> SignedRoster:
    from study.roster import SignedRoster

    return read_as(
        path, "roster", SignedRoster.from_bytes, hint="discreet federation init makes one"
    )


@contextmanager
def _roster_explained() -> Iterator[None]:
    """What a roster's own rules refuse is the fault of whoever gave it."""
    try:
        yield
    except ProtocolError as error:
        raise UserError(error.message, hint=error.hint) from error
