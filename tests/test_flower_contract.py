"""What we use of Flower beyond its public interface, so that an upgrade says here what it moved, and who has to follow.

Every name and behaviour is listed once, with the file of ours that relies on it.
"""

import importlib
import importlib.metadata
import inspect
import tomllib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

NAMES = {
    "flwr.supercore.task_identity.TaskIdentity": "simulations/grid.py",
    "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects": "simulations/grid.py",
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": "simulations/grid.py",
    "flwr.supercore.run.Run": "simulations/grid.py",
}
"""Names that Flower does not promise to keep."""


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
    assert hasattr(importlib.import_module(module), attribute), f"{NAMES[name]} uses {name}"


def test_no_other_name_that_is_not_public_is_used():
    public = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in ("tests", ".venv", "build"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("from flwr"):
                module, names = line.removeprefix("from ").split(" import ")
                if module not in public:
                    for each in names.split(","):
                        assert f"{module}.{each.strip()}" in NAMES, f"{path}: {line}"


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
