"""SuperLink, Flower's server, as a coordinator runs it, and the calls by which a coordinator steers it.

Its Control API, by which nodes are registered and runs are started, asks nobody who they are. Hence SuperLink listens
on the loopback alone (`server/processes.py`), and sites reach it through the gateway, which passes on nothing of that
API (`server/gateway`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from types import TracebackType
from typing import Self, TypeVar

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError

from privacy.errors import DiscreetError, UserError
from server.directory import CoordinatorDirectory

__all__ = ["Control", "Node", "RunStatus"]

_LOOPBACK = "127.0.0.1"
T = TypeVar("T")

_APP = b"""\
[project]
name = "discreet"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "discreet"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
study = ""
"""
"""What Flower is told of the app. No code is in it: coordinator and sites run what they have installed."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A site's SuperNode, as SuperLink knows it: `status` is registered, online, offline or unregistered."""

    node_id: int
    status: str

    @property
    def is_online(self) -> bool:
        """Whether its last heartbeat is recent."""
        return self.status == "online"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands: `status` is pending, starting, running or finished; how it ended, if it did."""

    status: str
    ending: str = ""
    details: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status == "finished"


class Control:
    """Calls to the Control API of a coordinator's own SuperLink; a context manager.

    Every method raises DiscreetError where SuperLink does not answer, and UserError where it refuses.
    """

    def __init__(self, directory: CoordinatorDirectory) -> None:
        port = directory.settings().network.superlink_port
        try:
            self._client = ControlHttpClient.from_server_address(
                f"{_LOOPBACK}:{port}", False, (directory / "ca.pem").read_bytes(), []
            )
        except (OSError, ValueError) as error:
            hint = "make the authority with: discreet coordinator init"
            raise UserError(
                f"{directory / 'ca.pem'} cannot be read as a certificate", hint=hint
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def register_node(self, public_key: bytes) -> int:
        """Let the SuperNode of this public key come. No name goes along: SuperLink's database shall hold none.

        Arguments:
            public_key: in PEM form, as Flower's header carries it.
        """
        request = RegisterNodeRequest(public_key=public_key)
        return _call("register a node", lambda: self._client.RegisterNode(request)).node_id

    def unregister_node(self, node_id: int) -> None:
        """Let a SuperNode come no longer; SuperLink refuses it from now on."""
        request = UnregisterNodeRequest(node_id=node_id)
        _call("unregister a node", lambda: self._client.UnregisterNode(request))

    def nodes(self) -> dict[bytes, Node]:
        """All nodes that are registered, by public key."""
        listed = _call("list the nodes", lambda: self._client.ListNodes(ListNodesRequest()))
        return {
            each.public_key: Node(node_id=each.node_id, status=each.status)
            for each in listed.nodes_info
            if each.status != "unregistered"
        }

    def start_run(self, study_hash: str) -> int:
        """Start a run of the study of this hash, and give its id; a supervisor has to take its task."""
        override = user_config_to_proto({"study": study_hash})
        request = StartRunRequest(fab=_app(), override_config=override)
        response = _call("start a run", lambda: self._client.StartRun(request))
        if not response.HasField("run_id") or response.run_id == 0:
            raise DiscreetError("SuperLink started no run, and does not say why")
        return response.run_id

    def run_status(self, run_id: int) -> RunStatus:
        """Where a run stands."""
        listed = _call(
            "ask for a run", lambda: self._client.ListRuns(ListRunsRequest(run_id=run_id))
        )
        status = listed.run_dict[run_id].status
        return RunStatus(status=status.status, ending=status.sub_status, details=status.details)

    def stop_run(self, run_id: int) -> None:
        """Stop a run; one that is finished is left as it is."""
        if self.run_status(run_id).is_finished:
            return
        response = _call("stop a run", lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))
        if not response.success and not self.run_status(run_id).is_finished:
            raise DiscreetError(f"SuperLink did not stop run {run_id}")


@cache
def _app() -> Fab:
    with warnings.catch_warnings():  # Flower uses a name that a library of its own gives up
        warnings.simplefilter("ignore", DeprecationWarning)
        content, _ = build_fab_from_files({"pyproject.toml": _APP})
    return Fab(hash_str=sha256(content).hexdigest(), content=content)


def _call(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except httpx.HTTPStatusError as error:
        refusal = FlowerError.from_json(error.response.text)
        reason = refusal.message if refusal else f"status {error.response.status_code}"
        raise UserError(f"SuperLink refused to {what}: {reason}") from error
    except httpx.TransportError as error:
        raise DiscreetError(
            f"SuperLink did not answer when asked to {what}: {type(error).__name__}",
            hint="is it running? discreet coordinator start starts it",
        ) from error
    except ValueError as error:  # an answer that is no protobuf message
        raise DiscreetError(f"SuperLink's answer cannot be read when asked to {what}") from error
