"""`python -m client.worker.rehearsal DIR`: what keeps a site from answering the studies that it has approved.

It takes part in each as the worker would, confined as the worker is, since records are read, and writes nothing: what
is not reserved already is left alone. On its standard output is a list of sentences, JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from client.approvals import approved_site, read_approval, take_part
from client.directory import SiteDirectory
from client.ledger import Ledger
from client.worker.confinement import confine, unconfined
from privacy.errors import DiscreetError
from study.keyfiles import read_key

__all__ = ["main"]


def problems(directory: SiteDirectory) -> Iterator[str]:
    """Why open studies are not answered. Raises DiscreetError where no ledger can be opened."""
    ledger = Ledger(directory / "ledger.sqlite", read_key(directory / "site.key"))
    site, accounts = approved_site(directory, ledger, beside=True), ledger.state.studies
    for path in sorted((directory / "studies").glob("*.json")):
        account = accounts.get(path.stem)
        if account is None or account.closed:
            continue
        try:
            take_part(site, directory, read_approval(path))
        except DiscreetError as error:
            yield f"{account.approval.name} is not answered: {error.explained}"
        except Exception as error:  # noqa: BLE001  of a library that reads records: its text may quote them
            yield f"{account.approval.name} is not answered: {type(error).__name__}"


def main(arguments: list[str]) -> int:
    """Print what is wrong."""
    try:
        directory = SiteDirectory(Path(arguments[0]))
        limits, worker = directory.settings().limits, directory.settings().worker
        os.environ["SQLITE_TMPDIR"] = str(directory.path)
        if worker.confined:
            user = worker.user if os.getuid() == 0 else None
            confine(memory=limits.memory, user=user, directory=directory.path)
        else:
            unconfined(memory=limits.memory)
        found = list(problems(directory))
    except DiscreetError as error:
        found = [error.explained]
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
