"""A SuperNode's Runtime API without a SuperNode: HTTP on a free port of the loopback, with Flower's own messages.

It keeps the rules that matter: a task is claimed once, its message given once, a token is good until its task is done, a
reply that has all its objects is sent and forgotten (`sent`). What is asked of it is written down (`calls`).
"""

import collections
import hashlib
import http.server
import secrets
import threading
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, runtime_pb2, task_pb2
from flwr.supercore.auth import compute_superexec_signature, derive_auth_secret
from flwr.supercore.constant import (
    SUPEREXEC_AUTH_NONCE_HEADER,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    SUPEREXEC_AUTH_TIMESTAMP_HEADER,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from study.envelope import query_message

SECRET = b"the secret of a test"
RUN, NODE, SERVER = 77, 4242, 1
WAIT_SECONDS = 30.0

_PROTOBUF = "application/protobuf"


def instruction(content):
    """A message to the site, as a coordinator makes it."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, 1
    message = query_message(content, index=0, node_id=NODE, seconds=600.0)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class Given:
    """A message, as the runtime gives it: all of it can be falsified before.

    Attributes:
        proto, tree, objects: what is given; message_id: of the instruction that it was made of.
    """

    def __init__(self, message):
        self.message_id = message.object_id
        bare = message_to_proto(message)
        bare.ClearField("content")
        bare.content.SetInParent()
        self.proto, self.tree = bare, get_object_tree(message)
        self.objects = {k: v.deflate() for k, v in get_all_nested_objects(message).items()}


class Task:
    def __init__(self, number, given, kind):
        self.number, self.given, self.kind = number, given, kind
        self.token, self.running, self.retrieved, self.done = "", False, False, False


class RuntimeApi:
    """The API; a context manager.

    Attributes:
        calls: names of what was asked, in order. types: every set of task types that was asked for.
        sent: replies, whole, as Flower messages, in the order in which they were. outputs: tasks that were done.
        refuse: names of calls that are answered with a status instead; late: objects that are not there at first.
    """

    def __init__(self, *, fab=b""):
        self.calls, self.types, self.sent, self.outputs = [], [], [], []
        self.refuse, self.late, self.fab = {}, collections.Counter(), fab
        self._tasks, self._replies = [], {}
        self._lock = threading.RLock()
        self._secret = derive_auth_secret(SECRET)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()

    def give(self, given, kind="flwr-clientapp"):
        """A message has come, and with it a task."""
        given = given if isinstance(given, Given) else Given(given)
        with self._lock:
            self._tasks.append(Task(len(self._tasks) + 1, given, kind))
        return given

    def forget_tokens(self):
        """As after a restart, or once no heartbeat has come."""
        with self._lock:
            for each in self._tasks:
                each.token = secrets.token_hex(8) if each.token else ""

    def wait(self, condition):
        """Until that holds of this API; a test that waits for too long fails."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition(self):
            assert time.monotonic() < end, f"nothing came of it: {self.calls[-10:]}"
            time.sleep(0.01)

    def reply(self, number=0):
        """The reply of that number, once it was sent and its task done."""
        self.wait(lambda api: len(api.sent) > number and len(api.outputs) > number)
        return self.sent[number]

    def handle(self, path, headers, body):
        """(status, content) of one request."""
        step = path.rsplit("/", 1)[-1].replace("-", "_")
        name = "".join(each.capitalize() for each in step.split("_"))
        with self._lock:
            self.calls.append(name)
            if name in self.refuse:
                return self.refuse[name], b""
            if name == "AcquireTask":
                return self._acquire(headers, body)
            task = next(
                (t for t in self._tasks if t.token and t.token == headers.get("flwr-task-token")),
                None,
            )
            if task is None or task.done:
                return 401, b""
            return 200, getattr(self, "_" + step)(task, body).SerializeToString()

    def _acquire(self, headers, body):
        request = runtime_pb2.AcquireTaskRequest.FromString(body)
        expected = compute_superexec_signature(
            auth_secret=self._secret, method="/flwr.proto.Runtime/AcquireTask", nonce=headers.get(SUPEREXEC_AUTH_NONCE_HEADER),
            timestamp=headers.get(SUPEREXEC_AUTH_TIMESTAMP_HEADER), body_sha256=hashlib.sha256(body).hexdigest(),
        )  # fmt: skip
        if headers.get(SUPEREXEC_AUTH_SIGNATURE_HEADER) != expected:
            return 401, b""
        self.types.append((tuple(request.supported_task_types), tuple(request.agentapp_fab_hashes)))
        for each in self._tasks:
            if not each.token and each.kind in request.supported_task_types:
                each.token = secrets.token_hex(16)
                task = task_pb2.Task(task_id=each.number, run_id=RUN, type=each.kind)
                return 200, runtime_pb2.AcquireTaskResponse(
                    task=task, token=each.token
                ).SerializeToString()
        return 200, b""

    def _pull_task_input(self, task, _body):
        task.running = True
        response = runtime_pb2.PullTaskInputResponse(task_id=task.number)
        response.context.node_id, response.run.run_id = NODE, RUN
        response.fab.content = self.fab
        return response

    def _pull_messages(self, task, _body):
        if task.retrieved:
            return runtime_pb2.PullAppMessagesResponse()
        task.retrieved = True
        return runtime_pb2.PullAppMessagesResponse(
            messages_list=[task.given.proto], message_object_trees=[task.given.tree]
        )

    def _pull_object(self, task, body):
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        if name in task.given.objects:
            self.late[name] -= 1
            there = self.late[name] < 0
            content = task.given.objects[name] if there else b""
            return message_pb2.PullObjectResponse(
                object_found=True, object_available=there, object_content=content
            )
        known = any(name == proto.metadata.message_id for proto, *_ in self._replies.values())
        return message_pb2.PullObjectResponse(object_found=known, object_available=False)

    def _push_messages(self, task, body):
        request = runtime_pb2.PushAppMessagesRequest.FromString(body)
        (proto,), (tree,) = request.messages_list, request.message_object_trees
        wanted, waiting = [], [tree]
        while waiting:
            each = waiting.pop()
            wanted.append(each.object_id)
            waiting += each.children
        _, _, had = self._replies.setdefault(task.number, (proto, set(wanted), {}))
        return runtime_pb2.PushAppMessagesResponse(
            message_ids=[proto.metadata.message_id],
            objects_to_push=set(wanted) - set(had),
            session_id="session",
        )

    def _push_object(self, task, body):
        request = message_pb2.PushObjectRequest.FromString(body)
        if hashlib.sha256(request.object_content).hexdigest() != request.object_id:
            return message_pb2.PushObjectResponse(stored=False)
        proto, wanted, had = self._replies[task.number]
        had[request.object_id] = request.object_content
        if set(had) == wanted:
            self.sent.append(inflate_object_from_contents(proto.metadata.message_id, dict(had)))
            del self._replies[task.number]
        return message_pb2.PushObjectResponse(stored=True)

    def _confirm_message_received(self, _task, _body):
        return message_pb2.ConfirmMessageReceivedResponse()

    def _send_task_heartbeat(self, _task, _body):
        return runtime_pb2.SendTaskHeartbeatResponse(success=True)

    def _push_task_output(self, task, body):
        task.done = True
        self.outputs.append((task.number, runtime_pb2.PushTaskOutputRequest.FromString(body)))
        return runtime_pb2.PushTaskOutputResponse()


def _handler_of(api):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            status, content = api.handle(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-type", _PROTOBUF)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def echo(*, message, context):
    """What an odd worker replies where nothing is wrong with it."""
    content = RecordDict({"echo": ConfigRecord({"content": b"answered"})})
    return Message(content, reply_to=message)
