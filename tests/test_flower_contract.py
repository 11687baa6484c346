"""What we use of Flower beyond its public interface, so that an upgrade says here what it moved, and who has to follow.

Every name and behaviour is listed once, with the file of ours that relies on it.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import tomllib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.cli.build import build_fab_from_files
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    ErrorCode,
)
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.auth import create_superexec_auth_metadata
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.run import Run
from flwr.supercore.servicer.runtime import runtime_handlers as core_handlers
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers
from packaging.requirements import Requirement

from study import envelope

ROOT = Path(__file__).parents[1]

NAMES = {
    "flwr.cli.build.build_fab_from_files": "server/superlink.py",
    "flwr.common.constant.HEARTBEAT_MIN_INTERVAL": "server/gateway/checks.py",
    "flwr.common.constant.SUPERLINK_NODE_ID": "server/gateway/checks.py",
    "flwr.common.constant.SYSTEM_TIME_TOLERANCE": "server/gateway/authentication.py",
    "flwr.common.constant.TIMESTAMP_HEADER": "server/gateway/authentication.py",
    "flwr.common.constant.TIMESTAMP_TOLERANCE": "server/gateway/authentication.py",
    "flwr.common.serde.message_from_proto": "client/executor/replies.py server/grid.py",
    "flwr.common.serde.message_to_proto": "client/executor/replies.py client/worker/answering.py",
    "flwr.common.serde.user_config_to_proto": "server/superlink.py",
    "flwr.proto.control_pb2.ListNodesRequest": "server/superlink.py",
    "flwr.proto.control_pb2.ListRunsRequest": "server/superlink.py",
    "flwr.proto.control_pb2.RegisterNodeRequest": "server/superlink.py",
    "flwr.proto.control_pb2.StartRunRequest": "server/superlink.py",
    "flwr.proto.control_pb2.StopRunRequest": "server/superlink.py",
    "flwr.proto.control_pb2.UnregisterNodeRequest": "server/superlink.py",
    "flwr.proto.fab_pb2.Fab": "server/superlink.py",
    "flwr.proto.fab_pb2.GetFabRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.fleet_pb2": "client/supernode.py",
    "flwr.proto.fleet_pb2.ActivateNodeRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.fleet_pb2.ActivateNodeResponse": "server/gateway/app.py",
    "flwr.proto.fleet_pb2.DeactivateNodeRequest": "server/gateway/checks.py",
    "flwr.proto.fleet_pb2.PullMessagesRequest": "server/gateway/app.py server/gateway/checks.py server/gateway/polling.py",
    "flwr.proto.fleet_pb2.PullMessagesResponse": "server/gateway/polling.py",
    "flwr.proto.fleet_pb2.PushMessagesRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.heartbeat_pb2.SendNodeHeartbeatRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.message_pb2": "client/executor/replies.py client/executor/runtime.py",
    "flwr.proto.message_pb2.ConfirmMessageReceivedRequest": "server/gateway/app.py server/gateway/checks.py server/grid.py",
    "flwr.proto.message_pb2.Message": "server/grid.py",
    "flwr.proto.message_pb2.ObjectTree": "server/gateway/checks.py server/grid.py",
    "flwr.proto.message_pb2.PullObjectRequest": "server/gateway/app.py server/gateway/checks.py server/grid.py",
    "flwr.proto.message_pb2.PushObjectRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.message_pb2.PushObjectResponse": "server/gateway/app.py",
    "flwr.proto.run_pb2.GetRunRequest": "server/gateway/app.py server/gateway/checks.py",
    "flwr.proto.runtime_pb2": "client/executor/runtime.py",
    "flwr.proto.runtime_pb2.AcquireTaskRequest": "server/supervisor.py",
    "flwr.proto.runtime_pb2.PullAppMessagesRequest": "server/grid.py",
    "flwr.proto.runtime_pb2.PullTaskInputRequest": "server/supervisor.py",
    "flwr.proto.runtime_pb2.PushTaskOutputRequest": "server/supervisor.py",
    "flwr.proto.runtime_pb2.SendTaskHeartbeatRequest": "server/supervisor.py",
    "flwr.supercore.auth.create_superexec_auth_metadata": "client/executor/runtime.py",
    "flwr.supercore.auth.derive_auth_secret": "client/executor/runtime.py",
    "flwr.supercore.constant.FLEET_HTTP_PUBLIC_KEY_HEADER": "server/gateway/authentication.py",
    "flwr.supercore.constant.FLEET_HTTP_SIGNATURE_HEADER": "server/gateway/authentication.py",
    "flwr.supercore.constant.TASK_TOKEN_HEADER": "client/executor/runtime.py",
    "flwr.supercore.control.ControlHttpClient": "server/superlink.py",
    "flwr.supercore.error.FlowerError": "server/superlink.py",
    "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects": "client/worker/answering.py simulations/grid.py",
    "flwr.supercore.inflatable.inflatable_object.get_object_children_ids_from_object_content": "server/gateway/checks.py",
    "flwr.supercore.inflatable.inflatable_object.get_object_tree": "client/executor/replies.py client/worker/answering.py",
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": "server/grid.py",
    "flwr.supercore.inflatable.inflatable_object.no_object_id_recompute": "client/worker/answering.py",
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": "client/worker/answering.py server/grid.py simulations/grid.py",
    "flwr.supercore.inflatable.inflatable_utils.validate_object_content": "client/executor/replies.py",
    "flwr.supercore.interceptors.RuntimeTokenHttpInterceptor": "server/supervisor.py",
    "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor": "server/supervisor.py",
    "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor": "server/supervisor.py",
    "flwr.supercore.primitives.asymmetric.public_key_to_bytes": "client/supernode.py",
    "flwr.supercore.protobuf.client.ProtobufCall": "client/executor/runtime.py",
    "flwr.supercore.protobuf.client.ProtobufRequestContext": "client/executor/runtime.py",
    "flwr.supercore.run.Run": "server/study_process.py simulations/grid.py",
    "flwr.supercore.runtime.RuntimeHttpClient": "client/executor/runtime.py server/supervisor.py",
    "flwr.supercore.task_identity.TaskIdentity": "client/executor/replies.py client/worker/answering.py server/study_process.py simulations/grid.py",
    "flwr.superlink.grid.http_grid.HttpGrid": "server/grid.py",
    "flwr.supernode.cli.flower_supernode.flower_supernode": "client/supernode.py",
    "flwr.supernode.fleet_http_client.FleetHttpClient": "client/supernode.py",
    "flwr.supernode.node_auth_http_interceptor.NodeAuthHttpInterceptor": "client/supernode.py",
}
"""Names that Flower does not promise to keep, and who relies on them."""


PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp")


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """We are node 1 of run 1, and whoever we were before afterwards."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture
def message():
    content = RecordDict({"discreet": ConfigRecord({"content": b"\x00\xff" * 500})})
    return Message(content, dst_node_id=2, message_type="query.sum", ttl=60.0, group_id="7")


def wire(message):
    contents = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
    return inflate_object_from_contents(message.object_id, contents, keep_object_contents=False)


def test_the_installed_version_is_in_the_tested_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(each for each in map(Requirement, project["dependencies"]) if each.name == "flwr")
    assert importlib.metadata.version("flwr") in wanted.specifier, (
        "pyproject.toml names the range that was tested"
    )
    assert {each.operator for each in wanted.specifier} >= {">=", "<"}, "the range has two ends"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_public_is_where_it_was(name):
    module, _, attribute = name.rpartition(".")
    if importlib.util.find_spec(name.rpartition(".")[0]) and not hasattr(
        importlib.import_module(module), attribute
    ):
        importlib.import_module(name)  # a module itself; raises, and says which
    assert hasattr(importlib.import_module(module), attribute), f"{NAMES[name]} uses {name}"


def test_no_other_name_that_is_not_public_is_used_and_none_is_listed_in_vain():
    found = {}
    for package in (
        "gradients",
        "privacy",
        "study",
        "client",
        "server",
        "simulations",
        "audit",
        "discreet",
    ):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert not any(each.name.startswith("flwr") for each in node.names), path
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
                    for each in node.names:
                        if node.module not in PUBLIC:
                            name = f"{node.module}.{each.name}"
                            found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: " ".join(paths) for name, paths in found.items()} == NAMES


def test_the_identity_of_a_task_can_be_set():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 6, 7
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (5, 6, 7), (
        "simulations/grid.py sets TaskIdentity.{run_id, node_id, task_id}"
    )


@pytest.mark.parametrize("name", ["run_id", "node_id"])
def test_a_message_cannot_be_made_outside_a_task(monkeypatch, name):
    monkeypatch.setattr(TaskIdentity, f"_{name}", None)
    with pytest.raises(RuntimeError, match=f"TaskIdentity.{name} is not set"):
        Message(RecordDict(), dst_node_id=2, message_type="query.sum")


def test_a_message_carries_the_identity_of_its_task(message):
    TaskIdentity.run_id, TaskIdentity.node_id = 5, 6
    made = Message(RecordDict(), dst_node_id=2, message_type="query.sum")
    assert (made.metadata.run_id, made.metadata.src_node_id) == (5, 6)


def test_a_message_is_made_with_these_names(message):
    metadata = message.metadata
    found = (metadata.dst_node_id, metadata.message_type, metadata.ttl, metadata.group_id)
    assert found == (2, "query.sum", 60.0, "7"), "study/envelope.py makes queries so"


def test_a_number_of_a_message_can_be_given(message):
    arrived = wire(message)
    arrived.metadata.__dict__["_message_id"] = "message-1"
    assert arrived.metadata.message_id == "message-1", (
        "simulations/grid.py sets Metadata._message_id, as Flower's servers do"
    )
    reply = Message(RecordDict(), reply_to=arrived)
    assert reply.metadata.reply_to_message_id == "message-1", (
        "server/rounds.py knows by reply_to_message_id what it waits for"
    )


def test_a_reply_goes_back_where_its_message_came_from(message):
    reply = Message(RecordDict(), reply_to=wire(message))
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (2, 1), (
        "server/rounds.py tells sites apart by src_node_id"
    )
    assert (reply.metadata.group_id, reply.metadata.message_type) == ("7", "query.sum")


def test_bytes_in_a_config_record_survive_the_wire(message):
    objects = get_all_nested_objects(message)
    assert len(objects) == 3, "study/envelope.py: message, record dictionary, one record"
    assert all(isinstance(each, str) and len(each) == 64 for each in objects)
    arrived = wire(message)
    assert isinstance(arrived, Message)
    assert arrived is not message
    assert set(arrived.content) == {"discreet"}
    record = arrived.content["discreet"]
    assert isinstance(record, ConfigRecord)
    assert dict(record) == {"content": b"\x00\xff" * 500}, "study/envelope.py sends bytes so"
    assert type(record["content"]) is bytes


def test_an_empty_and_a_large_value_survive_the_wire():
    for content in (b"", bytes(range(256)) * 8192):
        record = RecordDict({"discreet": ConfigRecord({"content": content})})
        arrived = wire(Message(record, dst_node_id=2, message_type="query.sum"))
        assert arrived.content["discreet"]["content"] == content, "study/envelope.py"


def test_a_reply_can_be_an_error_with_a_code_of_our_own(message):
    reply = wire(Message(Error(code=1003), reply_to=wire(message)))
    assert reply.has_error(), "study/envelope.py refuses with Error(code=...)"
    assert not reply.has_content()
    assert reply.error.code == 1003
    assert not reply.error.reason, "a refusal says nothing but its code"


def test_a_reply_can_be_an_error_with_a_reason(message):
    reply = wire(Message(Error(code=1006, reason="floors.sites"), reply_to=wire(message)))
    assert (reply.error.code, reply.error.reason) == (1006, "floors.sites"), "study/envelope.py"


def test_what_superlink_says_in_the_place_of_a_node_has_these_codes():
    """study/envelope.py explains them."""
    codes = (
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    )
    assert codes == (*envelope._EXPIRED, envelope._NODE_UNAVAILABLE)


def test_a_message_with_content_has_no_error(message):
    assert (message.has_content(), message.has_error()) == (True, False), "study/envelope.py"


def test_a_grid_has_exactly_these_abstract_methods():
    assert Grid.__abstractmethods__ == {
        "set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive",
    }, "simulations/grid.py implements all of them"  # fmt: skip
    assert list(inspect.signature(Grid.push_messages).parameters) == ["self", "messages"]
    assert list(inspect.signature(Grid.pull_messages).parameters) == ["self", "message_ids"]
    assert list(inspect.signature(Grid.send_and_receive).parameters) == [
        "self",
        "messages",
        "timeout",
    ]


def test_an_empty_run_can_be_made():
    assert Run.create_empty(3).run_id == 3, "simulations/grid.py: InProcessGrid.run"


def context():
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def test_a_client_app_dispatches_by_action(message):
    app, called = ClientApp(), []

    @app.query("sum")
    def answer(received, _context):
        called.append(received)
        return Message(received.content, reply_to=received)

    reply = app(wire(message), context())
    assert len(called) == 1, 'client/app.py answers "query.sum" by @app.query("sum")'
    assert reply.content["discreet"]["content"] == message.content["discreet"]["content"]


@pytest.mark.parametrize("kind", ["query", "query.other", "train", "evaluate", "train.sum"])
def test_a_client_app_answers_no_other_action(message, kind):
    app = ClientApp()
    app.query("sum")(lambda received, _context: Message(received.content, reply_to=received))
    other = Message(message.content, dst_node_id=2, message_type=kind)
    with pytest.raises(ValueError, match="function registered"):
        app(wire(other), context())


def test_what_an_action_raises_comes_out_of_the_app(message):
    """client/app.py must catch everything that is to leave as a code: Flower would send the text of it."""
    app = ClientApp()

    @app.query("sum")
    def answer(_message, _context):
        raise ZeroDivisionError("a secret")

    with pytest.raises(ZeroDivisionError, match="a secret"):
        app(wire(message), context())


def test_a_server_app_runs_its_main_with_the_grid_that_it_is_given():
    app, called = ServerApp(), []

    @app.main()
    def main(grid, given):
        called.append((grid, given))

    grid, given = object(), context()
    app(grid, given)
    assert called == [(grid, given)], "server/app.py"


def test_what_main_raises_comes_out_of_the_app():
    app = ServerApp()

    @app.main()
    def main(_grid, _context):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app(object(), context())


def test_a_context_can_be_made_with_these_names_alone():
    made = context()
    assert (made.run_id, made.node_id) == (1, 2), (
        "simulations/grid.py and simulations/run.py make contexts"
    )


# A deployment


FIELDS = {
    "fleet_pb2.ActivateNodeRequest": "public_key heartbeat_interval", "fleet_pb2.ActivateNodeResponse": "node_id",
    "fleet_pb2.DeactivateNodeRequest": "node_id", "fleet_pb2.PullMessagesRequest": "node",
    "fleet_pb2.PullMessagesResponse": "messages_list message_object_trees",
    "fleet_pb2.PushMessagesRequest": "node messages_list message_object_trees", "fab_pb2.GetFabRequest": "node run_id",
    "run_pb2.GetRunRequest": "node run_id", "heartbeat_pb2.SendNodeHeartbeatRequest": "node heartbeat_interval",
    "message_pb2.PullObjectRequest": "node run_id object_id",
    "message_pb2.PullObjectResponse": "object_found object_available object_content",
    "message_pb2.PushObjectRequest": "node run_id object_id object_content session_id",
    "message_pb2.PushObjectResponse": "stored", "message_pb2.ObjectTree": "object_id children",
    "message_pb2.ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "message_pb2.Metadata": "run_id message_id src_node_id dst_node_id reply_to_message_id ttl created_at",
    "runtime_pb2.AcquireTaskRequest": "supported_task_types", "runtime_pb2.AcquireTaskResponse": "task token",
    "runtime_pb2.PullTaskInputResponse": "context run task_id", "runtime_pb2.PushTaskOutputRequest": "sub_status details",
    "runtime_pb2.SendTaskHeartbeatResponse": "success",
    "runtime_pb2.PushAppMessagesRequest": "messages_list message_object_trees",
    "runtime_pb2.PullAppMessagesResponse": "messages_list message_object_trees",
    "control_pb2.RegisterNodeRequest": "public_key", "control_pb2.StartRunRequest": "fab override_config",
    "control_pb2.StartRunResponse": "run_id", "control_pb2.ListRunsRequest": "run_id",
    "control_pb2.ListNodesResponse": "nodes_info", "control_pb2.UnregisterNodeRequest": "node_id",
    "node_pb2.NodeInfo": "node_id public_key status", "run_pb2.Run": "run_id override_config",
}  # fmt: skip
"""Of Flower's messages what server/gateway, server/supervisor.py, server/superlink.py and client/ read or set."""


@pytest.mark.parametrize("name", FIELDS)
def test_a_message_of_flowers_has_the_fields_that_are_read(name):
    module, kind = name.split(".")
    found = getattr(importlib.import_module(f"flwr.proto.{module}"), kind).DESCRIPTOR.fields_by_name
    assert set(FIELDS[name].split()) <= set(found), name


PATHS = {
    "Fleet": "activate-node deactivate-node send-node-heartbeat pull-messages push-messages get-run get-fab pull-object "
    "push-object confirm-message-received",
    "Runtime": "acquire-task send-task-heartbeat pull-task-input push-task-output push-object pull-object "
    "confirm-message-received push-messages pull-messages",
    "Control": "start-run list-runs stop-run register-node unregister-node list-nodes",
}  # fmt: skip


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_is_where_it_was(kind):
    found = {path for method, path in PROTOBUF_REQUEST_TYPES if method == "POST"}
    for each in PATHS[kind].split():
        assert f"/v1/{kind.lower()}/{each}" in found, (
            "server/gateway/checks.py knows ten paths of the Fleet API"
        )


def options_of(module, builder):
    parser = getattr(importlib.import_module(module), builder)()
    return {each for action in parser._actions for each in action.option_strings}


def test_the_programs_have_the_options_that_close_them():
    superlink = options_of("flwr.superlink.cli.flower_superlink", "_parse_args_run_superlink")
    assert superlink >= {
        "--host", "--port", "--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile", "--enable-supernode-auth",
        "--database", "--isolation", "--superexec-auth-secret-file",
    }, "server/superlink.py"  # fmt: skip
    supernode = options_of("flwr.supernode.cli.flower_supernode", "_parse_args_run_supernode")
    assert supernode >= {
        "--superlink", "--root-certificates", "--auth-supernode-private-key", "--isolation",
        "--superexec-auth-secret-file", "--host", "--port",
    }, "client/processes.py"  # fmt: skip


@pytest.mark.parametrize(
    ("called", "keywords"),
    [
        (HttpGrid.__init__, "runtime_api_address insecure root_certificates token"),
        (HttpGrid.get_nodes, ""),
        (pull_objects, "initial_backoff"),
        (ProtobufClient.__init__, "base_url interceptors verify timeout"),
        (
            ProtobufClient.from_server_address,
            "server_address insecure root_certificates interceptors",
        ),
        (create_superexec_auth_metadata, "auth_secret method request"),
        (SuperExecAuthHttpInterceptor.__init__, "master_secret protected_methods"),
        (RuntimeTokenHttpInterceptor.__init__, "token"),
        (RuntimeVersionHttpInterceptor.__init__, "component_name"),
        (build_fab_from_files, "files"),
    ],
)
def test_what_is_called_takes_these_arguments(called, keywords):
    assert set(keywords.split()) <= set(inspect.signature(called).parameters), called.__qualname__


def test_how_long_a_poller_waits_for_an_object_can_be_shortened():
    assert "initial_backoff" in pull_objects.__kwdefaults__, "server/study_process.py shortens it"


def test_the_same_message_has_the_same_name_again(message):
    """server/journal.py: a coordinator that goes on gives Flower the messages that it had given it."""
    again = Message(
        message.content, dst_node_id=2, message_type="query.sum", ttl=60.0, group_id="7"
    )
    assert again.object_id != message.object_id, "the time is in it"
    again.metadata.created_at = message.metadata.created_at
    assert again.object_id == message.object_id


def linkstate():
    manager = get_federation_manager()
    _, factory = get_objectstore_linkstate_factories(":flwr-in-memory:", manager)
    return factory.state()


def test_a_message_that_superlink_has_is_taken_again_and_not_twice(message):
    """server/trips.py pushes an open trip's messages again."""
    state, run, node, _ = federation()
    instruction = pushed(message, run, src=1, dst=node)
    for _ in range(2):
        assert state.store_message_ins(instruction) == instruction.metadata.message_id
    assert len(state.get_message_ins(node, limit=None)) == 1


def federation():
    """A SuperLink's state with a run, and two nodes that are online."""
    state = linkstate()
    state.federation_manager.ensure_default_federations_exist(flwr_aid=NOOP_FLWR_AID)
    nodes = [
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 30)
        for key in (b"victim", b"neighbour")
    ]
    for each in nodes:
        assert state.activate_node(each, 30)
    run = state.create_run(
        "a/b", "1.0.0", "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
    )
    return state, run, *nodes


def pushed(message, run, *, src, dst):
    for name, value in (("run_id", run), ("src_node_id", src), ("dst_node_id", dst)):
        message.metadata.__dict__[f"_{name}"] = value
    message.metadata.__dict__["_message_id"] = message.object_id
    return remove_content_from_message(message)


def test_stock_flower_still_lets_one_node_instruct_another(message):
    """So the gateway still has to parse PushMessages. Once this fails, Flower has closed it: look again at that check."""
    state, run, victim, neighbour = federation()
    token = state.claim_task(state.get_run_info(run_ids=[run])[0].primary_task_id)
    assert token
    assert state.activate_task(state.get_run_info(run_ids=[run])[0].primary_task_id)
    tree = get_object_tree(message)
    instruction = pushed(message, run, src=1, dst=victim)
    tree = get_object_tree(message)
    request = PushMessagesRequest(
        node=Node(node_id=neighbour),
        messages_list=[message_to_proto(instruction)],
        message_object_trees=[tree],
    )
    fleet_handlers.push_messages(request, state)
    (injected,) = state.get_message_ins(victim, limit=None)
    assert injected.metadata.src_node_id == 1


def test_a_task_of_another_kind_is_not_given_to_whoever_asks_for_client_apps():
    """client/executor/ asks for that kind alone, which closes Flower's agent apps."""
    state = linkstate()
    state.create_task(task_type=TaskType.AGENT_APP, run_id=1, fab_hash="0" * 64)
    found = core_handlers.acquire_task(
        AcquireTaskRequest(supported_task_types=["flwr-clientapp"]), state
    )
    assert not found.token
    state.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="0" * 64)
    found = core_handlers.acquire_task(
        AcquireTaskRequest(supported_task_types=["flwr-clientapp"]), state
    )
    assert found.token
    assert (TaskType.CLIENT_APP, TaskType.SERVER_APP) == ("flwr-clientapp", "flwr-serverapp")


def test_a_token_outlives_the_process_that_took_it_for_half_a_minute():
    """server/supervisor.py and client/executor/ go on with it when they are started again."""
    assert (HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE) == (30, 2)
