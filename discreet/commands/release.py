"""`discreet release`: is a release what it says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from discreet.commands.shared import Json
from discreet.console import errors_explained, print_json, print_table, results

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Verify a release: files, roster, receipts, survivors, and that the model follows from the sums.",
)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A release, with manifest.json.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Of the roster, from where you trust it to be right; a site has pinned it.")
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Verify a release, offline and without a key. Exit 1 names the first contradiction.

    Every sum is over enough sites; where some were missing, enough survivors have signed the same set; every survivor
    has receipted its answer, in a ledger that only goes on; and the declared algorithm, fed with the sums, ends with
    this very model. What a site has paid stands in its ledger: discreet ledger verify, with receipts/NAME.jsonl.

    Example: discreet release verify results
    """
    from audit.release import verify_release

    with errors_explained():
        verdict = verify_release(directory, fingerprint=fingerprint)
        if json:
            print_json(
                {
                    "study": verdict.study, "sums": verdict.sums, "receipts": verdict.receipts,
                    "signatures": verdict.signatures, "roster": verdict.roster, "deviation": verdict.deviation,
                }
            )  # fmt: skip
            return
        rows = {
            "study": verdict.study, "roster": verdict.roster or "none: sites are not known by keys",
            "sums": f"{verdict.sums}, and the model follows from them (off by {verdict.deviation:.2g} at most)",
            "receipts": f"{verdict.receipts}, all by their sites",
            "signatures": f"{verdict.signatures}, of sets of survivors where some were missing",
        }  # fmt: skip
        print_table("No contradiction", rows, to=results)
