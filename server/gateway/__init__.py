"""The gateway between sites and SuperLink; `python -m server.gateway DIR` runs it.

Stock SuperLink trusts whoever holds a registered key with far more than a site needs: instructions to other sites,
forged replies, other sites' objects, as many bytes as it likes. The gateway passes on what an unmodified SuperNode
sends in the course of its own work, and nothing else; `app` shows the steps.
"""

from __future__ import annotations

import sys

from server.directory import CoordinatorDirectory
from study.processes import Process

__all__ = ["gateway_process"]


def gateway_process(directory: CoordinatorDirectory) -> Process:
    """The gateway of a coordinator's directory."""
    return Process(
        name="gateway",
        command=(sys.executable, "-m", "server.gateway", str(directory.path.absolute())),
        flower_home=directory / "flower",
    )
