"""Where a worker answers: its site, with the approved studies, and the installed app in front of it."""

from __future__ import annotations

from client.approvals import Studies, approved_site
from client.directory import SiteDirectory
from client.ledger import Ledger
from client.parcels import Request
from client.worker.answering import answered
from client.worker.installed import installed_app
from study.keyfiles import read_key
from study.notes import note, note_error

__all__ = ["Desk"]


class Desk:
    """Opens the ledger; what the last worker charged and never answered is burnt.

    Raises:
        DiscreetError: there is no ledger, key or coordinator's key that can be used.
    """

    def __init__(self, directory: SiteDirectory) -> None:
        ledger = Ledger(directory / "ledger.sqlite", read_key(directory / "site.key"))
        self._policy = directory / "policy.toml"
        self._has_policy = self._policy.exists()
        self._site = approved_site(directory, ledger)
        self._app = installed_app(directory, self._site)
        self._studies = Studies(self._site, directory, ledger)
        self._told = 0
        self.refresh()

    def refresh(self) -> None:
        """Take part in studies that have been approved in the meantime; tell the operator what is wrong.

        Raises:
            SystemExit: this site has been given a policy, which it had none of: the next worker has it.
        """
        if self._policy.exists() and not self._has_policy:
            note("policy.toml is new: starting again, so that it holds")
            raise SystemExit(0)
        self._studies.refresh()
        self._tell()

    def _tell(self) -> None:
        for problem in self._site.problems[self._told :]:
            note(f"Problem: {problem}")
        self._told = len(self._site.problems)

    def answer(self, content: bytes) -> bytes:
        """A request's reply, as frames hold them; empty if anything at all went wrong, which the log alone is told."""
        try:
            self.refresh()
            return answered(self._app, Request.from_bytes(content)).to_bytes()
        except Exception as error:  # noqa: BLE001  and MemoryError, which is one
            note_error("A message is not answered", error)
            return b""
        finally:
            self._tell()
