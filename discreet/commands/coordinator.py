"""`discreet coordinator`: the server of a federation. It adds up what it cannot read, and is trusted with no noise."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discreet.commands.shared import Json, read_as, require_digits, study_beginning_with
from discreet.console import (
    errors_explained,
    print_json,
    print_table,
    progress_of_rounds,
    results,
    say,
)
from privacy.errors import DiscreetError, UserError

if TYPE_CHECKING:
    from server.directory import CoordinatorDirectory
    from server.study_directory import StudyDirectory
    from study.declaration import Declaration
    from study.roster import SignedRoster

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="The server of a federation: SuperLink behind a gateway, and the ServerApp that is installed here.\n\n"
    "It adds up masked answers; noise and budgets are the sites' own. "
    "Start with: discreet coordinator init DIR --host federation.example.org",
)  # fmt: skip

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's directory.")]
_LOOK = 0.3
_DIGITS = 8  # of a hash, at least, to end a study by


@app.command()
def init(
    directory: Directory,
    host: Annotated[str, typer.Option(help="Name or address by which sites will reach it.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for sites.")] = 9443,
    superlink_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of SuperLink, on the loopback alone.")
    ] = 9444,
    json: Json = False,
) -> None:
    """Make a coordinator: its keys, its own certificate authority, its settings, and an invitation for the sites.

    invitation.json goes to every site, with its fingerprint by another way, such as the telephone.

    Example: discreet coordinator init coordinator --host federation.example.org
    """
    import secrets

    from server.authority import check_host, create_authority
    from server.directory import Network, Settings, settings_text
    from study.files import write_new
    from study.invitation import Invitation
    from study.keyfiles import create_key, write_public_key

    with errors_explained():
        if directory.exists() and any(directory.iterdir()):
            raise UserError(f"{directory} is not empty", hint="give a new directory")
        settings = Settings(network=Network(host=host, port=port, superlink_port=superlink_port))
        check_host(host)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_authority(directory, host)
        key = create_key(directory / "coordinator.key")
        write_public_key(directory / "coordinator.pub", key)
        write_new(directory / "superexec.secret", secrets.token_hex(32).encode(), 0o600)
        for name in ("flower", "studies", "tasks", "logs"):
            (directory / name).mkdir(mode=0o700)
        name = f"[{host}]" if ":" in host else host
        invitation = Invitation(
            address=f"{name}:{port}", certificate=(directory / "ca.pem").read_text(), key=key.public.hex()
        )  # fmt: skip
        write_new(directory / "invitation.json", invitation.to_bytes(), 0o644)
        write_new(directory / "coordinator.toml", settings_text(settings).encode(), 0o644)
        say(
            f"Made {directory}. Give {directory / 'invitation.json'} to every site; its fingerprint is"
        )
        say(f"    {invitation.fingerprint}")
        if json:
            print_json(
                {
                    "directory": str(directory),
                    "address": invitation.address,
                    "fingerprint": invitation.fingerprint,
                }
            )


@app.command()
def add(
    directory: Directory,
    node: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FILE...", help="A site of the roster and its node key, node.pub."
        ),
    ],
    json: Json = False,
) -> None:
    """Let sites connect: each by its name on the roster and the public key of its node. A running coordinator notices.

    A node key says who may connect. Whose answers count is the roster's to say.

    Example: discreet coordinator add coordinator north=north/node.pub south=south/node.pub
    """  # fmt: skip
    with errors_explained():
        opened = _opened(directory)
        given = dict(map(_node_of, node))
        sites = opened.sites() | given
        if len(set(sites.values())) < len(sites):
            raise UserError(
                "Expected a node key of its own for each site", hint="discreet site init makes one"
            )
        opened.write_sites(sites)
        say(f"{', '.join(given)} may connect; {len(sites)} sites in all.")
        if json:
            print_json({"sites": sorted(sites)})


@app.command()
def remove(
    directory: Directory,
    name: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Sites that may connect no longer.")
    ],
    json: Json = False,
) -> None:
    """Let sites connect no longer: they are refused at once. What they have answered stays in the sums.

    Example: discreet coordinator remove coordinator south
    """  # fmt: skip
    with errors_explained():
        opened = _opened(directory)
        sites = opened.sites()
        unknown = [each for each in name if each not in sites]
        if unknown:
            raise UserError(
                f"There is no site {unknown[0]}", hint=f"there are {', '.join(sites) or 'none'}"
            )
        opened.write_sites({each: key for each, key in sites.items() if each not in name})
        say(f"{', '.join(name)} may connect no longer.")
        if json:
            print_json({"sites": sorted(set(sites) - set(name))})


@app.command()
def renew(directory: Directory, json: Json = False) -> None:
    """Issue new certificates before the old ones expire. Sites notice nothing: they trust the authority, which stays.

    A running coordinator uses them when it is started again.

    Example: discreet coordinator renew coordinator
    """
    from server.authority import expires_at, renew_certificates

    with errors_explained():
        opened = _opened(directory)
        renew_certificates(directory, opened.settings().network.host)
        until = expires_at(directory / "gateway.pem").date().isoformat()
        say(f"New certificates, valid until {until}. Start the coordinator again.")
        if json:
            print_json({"valid_until": until})


@app.command()
def start(directory: Directory) -> None:
    """Run the coordinator until Ctrl-C: SuperLink on the loopback, the gateway for sites, the supervisor of studies.

    Whatever dies is started again, and goes on where it was. Logs are in DIR/logs.

    Example: discreet coordinator start coordinator
    """
    from discreet.keeper import command_of

    with errors_explained():
        network = _opened(directory).settings().network
        say(f"Sites reach this coordinator at {network.host}:{network.port}. Stop with Ctrl-C.")
        command = command_of("coordinator", directory)
        os.execv(command[0], command)  # noqa: S606  the same process, without what the commands are made of


@app.command()
def run(
    directory: Directory,
    declaration: Annotated[
        Path, typer.Argument(metavar="DECLARATION", help="What discreet study declare has written.")
    ],
    roster: Annotated[Path, typer.Option(help="The signed roster that it was declared for.")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it, and do not wait for its end.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a study that its sites have approved, and wait for its release. Given again, it shows the same run.

    It goes on when this command is interrupted, and when the coordinator dies and comes back.

    Example: discreet coordinator run coordinator declaration.json --roster lab/roster.json
    """
    from server.submission import submit
    from server.superlink import Control

    with errors_explained(
        interrupted="The study goes on; give the command again to see how far it is."
    ):
        opened = _opened(directory)
        declared = _declaration(declaration)
        place = submit(opened, declared, _roster(roster))
        if place.run is None and not place.is_over:
            with Control(opened) as control:
                place.begin(control.start_run(declared.hash))
        if detach:
            say(f"Study {declared.hash[:12]} has begun.")
            if json:
                print_json({"study": declared.hash, "directory": str(place.path)})
            return
        summary = _followed(place, declared, quiet=json)
        if json:
            print_json(summary)
        else:
            print_table("Result", {
                "study": summary["study"], "rounds": f"{summary['rounds']} of {summary['rounds_declared']}",
                "epsilon": str(summary["epsilon"]), "release": str(place / "release"),
                "report": str(place / "release" / "report.html"),
            }, to=results)  # fmt: skip


@app.command()
def stop(
    directory: Directory,
    study: Annotated[
        str, typer.Argument(metavar="HASH", help="The study; its first eight digits are enough.")
    ],
    json: Json = False,
) -> None:
    """End a study before its time, for good: it is asked nothing more, and there is no release.

    What its sites have charged stays charged. What it has not asked is theirs again as soon as they close it.

    Example: discreet coordinator stop coordinator 3f2a91c0
    """
    with errors_explained():
        hint = f"discreet coordinator status {directory} shows them"
        require_digits(study, least=_DIGITS, hint=hint)
        places = {place.path.name: place for place in _opened(directory).studies()}
        place = places[study_beginning_with(study, places, hint=hint)]
        if place.is_over:
            raise UserError(f"{place.title} is over: {_progress(place)}")
        place.stop()
        say(f"{place.title} ends, if the coordinator is running, else when it is started.")
        if json:
            print_json({"study": place.path.name})


@app.command()
def status(directory: Directory, json: Json = False) -> None:
    """Show which sites are connected, and how far each study has come.

    Example: discreet coordinator status coordinator
    """
    from server.superlink import Control

    with errors_explained():
        opened = _opened(directory)
        places = opened.studies()
        if not json:  # which can be said whether SuperLink answers or not
            studies = {place.title: _progress(place) for place in places}
            print_table("Studies", studies or {"": "none yet"}, to=results)
        with Control(opened) as control:
            nodes = control.nodes()
        sites = {
            name: "connected" if (node := nodes.get(key)) and node.is_online else "not connected"
            for name, key in opened.sites().items()
        }  # fmt: skip
        if json:
            shown = {place.path.name: _progress(place) for place in places}
            print_json({"sites": sites, "studies": shown})
        else:
            print_table("Sites", sites or {"": "none yet"}, to=results)


def _opened(directory: Path) -> CoordinatorDirectory:
    from server.directory import CoordinatorDirectory

    return CoordinatorDirectory(directory)


def _node_of(given: str) -> tuple[str, bytes]:
    """Name and PEM, as Flower's header carries it, of NAME=FILE."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_public_key,
    )

    from study.files import read_whole

    name, found, path = given.partition("=")
    if not found or not name:
        raise UserError(f"{given}: expected NAME=FILE", hint="such as north=north/node.pub")
    try:
        key = load_ssh_public_key(read_whole(Path(path)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path} is not a node's public key", hint="give the site's node.pub"
        ) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise UserError(f"{path} holds a key of another kind", hint="give the site's node.pub")
    return name, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _declaration(path: Path) -> Declaration:
    from study.declaration import Declaration

    return read_as(
        path, "declaration", Declaration.from_bytes, hint="discreet study declare writes one"
    )


def _roster(path: Path) -> SignedRoster:
    from study.roster import SignedRoster

    return read_as(
        path, "roster", SignedRoster.from_bytes, hint="discreet federation init makes one"
    )


def _followed(place: StudyDirectory, declaration: Declaration, *, quiet: bool) -> dict[str, Any]:
    """Show progress until the study is over; its summary. Raises DiscreetError if it has failed."""
    total, waiting = declaration.study.training.rounds, ""
    with progress_of_rounds(total, quiet=quiet) as show:
        while (outcome := place.outcome) is None:
            for line in place.lines():
                show(line["round"], _told(line))
            before, waiting = waiting, place.waiting
            if waiting != before:
                say(waiting or "It goes on.")
            time.sleep(_LOOK)
        if "failed" in outcome:
            raise DiscreetError(f"The study has failed: {outcome['failed']}", hint=outcome["hint"])
        show(total, "")
    return dict(outcome["summary"])


def _told(line: dict[str, Any]) -> str:
    """A query in a few words."""
    if line["abandoned"]:
        return f"query {line['query'] + 1} was abandoned"
    loss = "" if line["loss"] is None else f"loss {line['loss']:.4g}"
    missing = ", ".join(line["missing"])
    return f"{loss}{'  without ' + missing if missing else ''}"


def _progress(place: StudyDirectory) -> str:
    outcome = place.outcome
    if outcome is not None:
        failed = outcome.get("failed")
        return f"failed: {failed}" if failed else f"released in {place / 'release'}"
    if place.is_to_stop:
        return "stops"
    if place.run is None:
        return "submitted"
    done, waiting = max((line["round"] for line in place.lines()), default=0), place.waiting
    return f"round {done}. {waiting}" if waiting else f"round {done}"
