"""The ClientApp that answers at this site: the installed one, whatever code a coordinator ships."""

from __future__ import annotations

from flwr.clientapp import ClientApp

from client.answers import Site
from client.app import make_client_app
from client.directory import SiteDirectory
from study.keyfiles import read_public_key

__all__ = ["installed_app"]


def installed_app(directory: SiteDirectory, site: Site) -> ClientApp:
    """The app of this site, which hears the coordinator that it has pinned and nobody else. Raises UserError."""
    return make_client_app(site, coordinator=read_public_key(directory / "coordinator.pub"))
