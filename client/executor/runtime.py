"""The SuperNode's runtime, as the executor uses it: a task, its message as opaque objects, a reply, done.

    acquire -> begin -> message -> objects -> (the worker answers) -> push -> done

Only tasks of ClientApps are asked for: of an AgentApp the SuperNode would have code of the coordinator's run. The FAB
that comes with a task, which is such code, is not looked at.

A task is never declared done before its reply is pushed whole: the SuperNode would wait for that reply for good. Where
pushing fails the task is dropped instead; its token runs out, and the SuperNode replies in our place.

A message that the SuperNode has sent it forgets, and would send again if it were pushed again. So the reply is on
the disk before it is pushed, with its id, and `push` asks whether the SuperNode still has it where that may have been.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import httpx
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.auth import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient

from client.executor.assignment import Assignment
from client.executor.replies import ids_of
from client.parcels import MOST_BYTES, Reply
from privacy.errors import DiscreetError

__all__ = ["NoMessageError", "Runtime", "RuntimeGoneError", "TaskLostError", "TaskRuntime"]

TASK_TYPE = "flwr-clientapp"

_HEARTBEAT_SECONDS = 15.0  # a token without one runs out after 60
_FIRST_HEARTBEAT_SECONDS = 1.0  # an executor that goes on after another's death has less
_CALL_SECONDS = 30.0
_GONE_SECONDS = 5.0
_MESSAGE_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_MOST_MESSAGE = 2_000_000  # bytes of metadata and tree: ours have a thousand

Request = TypeVar("Request")
Response = TypeVar("Response")


class TaskLostError(DiscreetError):
    """The SuperNode does not know the task any more: it has restarted, or has given up on us."""


class RuntimeGoneError(DiscreetError):
    """The SuperNode cannot be reached, or does not do what is asked."""


class NoMessageError(DiscreetError):
    """A task came without a message that could be answered."""


class Runtime:
    """The runtime on a port of the loopback.

    Arguments:
        secret: shared with the SuperNode: who may take tasks.
    """

    def __init__(self, port: int, secret: bytes) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._client = self._connected(_SecretHeaders(secret))

    def acquire(self) -> Assignment | None:
        """Take the next task; None if there is none. Raises RuntimeGoneError."""
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=[TASK_TYPE])
        try:
            found = self._client.AcquireTask(request)
        except (httpx.HTTPError, ValueError) as error:
            raise RuntimeGoneError(_in_words(error)) from error
        if not found.HasField("task") or not found.token:
            return None
        return Assignment(token=found.token, run=found.task.run_id, task=found.task.task_id)

    @contextmanager
    def task(self, token: str) -> Iterator[TaskRuntime]:
        """What is done with one task, kept alive meanwhile."""
        client = self._connected(_TokenHeader(token))
        stop = threading.Event()
        beating = threading.Thread(target=_beat, args=(client, stop), daemon=True)
        beating.start()
        try:
            yield TaskRuntime(client)
        finally:
            stop.set()
            beating.join()
            client.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _connected(self, headers: _SecretHeaders | _TokenHeader) -> RuntimeHttpClient:
        return RuntimeHttpClient(self._address, interceptors=[headers], timeout=_CALL_SECONDS)


class TaskRuntime:
    """One task. Every step raises TaskLostError or RuntimeGoneError, and can be taken again."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client

    def begin(self) -> None:
        """Say that work begins; a task that has begun before is none the worse for it."""
        try:
            _called(self._client.PullTaskInput, runtime_pb2.PullTaskInputRequest())
        except RuntimeGoneError as error:
            if not isinstance(error.__cause__, httpx.HTTPStatusError):
                raise

    def message(self, waiting: Callable[[], bool]) -> tuple[bytes, bytes]:
        """Message without content, and tree of its objects, as Protobuf. The SuperNode gives it once.

        Raises:
            NoMessageError: there is none: it was given to an executor that was killed before it could keep it; or its
                metadata and tree are far too large.
        """
        end = time.monotonic() + _MESSAGE_SECONDS
        for pause in _pauses():  # a task is there a moment before its message is
            found = _called(self._client.PullMessages, runtime_pb2.PullAppMessagesRequest())
            if found.messages_list and found.message_object_trees:
                if found.ByteSize() > _MOST_MESSAGE:
                    raise NoMessageError(
                        f"Expected a message of {_MOST_MESSAGE:,} bytes at most, before its content"
                    )
                tree = found.message_object_trees[0]
                return found.messages_list[0].SerializeToString(), tree.SerializeToString()
            if time.monotonic() > end or not waiting():
                break
            time.sleep(pause)
        raise NoMessageError("Expected a message for the task, found none")

    def objects(self, tree: bytes, waiting: Callable[[], bool]) -> dict[str, bytes]:
        """Contents of all objects of a tree, which arrive while the SuperNode pulls them.

        Raises:
            NoMessageError: far too large, one is missing, or it has taken too long.
            ProtocolError: they are far too many, or it is no tree of objects.
        """
        contents: dict[str, bytes] = {}
        room = MOST_BYTES
        for each in ids_of(tree):
            contents[each] = self._object(each, waiting)
            room -= len(contents[each])
            if room < 0:
                raise NoMessageError(f"Expected a message of at most {MOST_BYTES:,} bytes")
        return contents

    def _object(self, name: str, waiting: Callable[[], bool]) -> bytes:
        for pause in _pauses():
            found = _called(self._client.PullObject, message_pb2.PullObjectRequest(object_id=name))
            if not found.object_found:
                raise NoMessageError("Expected all objects of a message, found that one is missing")
            if found.object_available:
                return found.object_content
            if not waiting():
                break
            time.sleep(pause)
        raise NoMessageError("Expected all objects of a message in time")

    def register(self, reply: Reply) -> tuple[str, list[str]]:
        """Announce a reply; a session, and the ids of its objects that are wanted."""
        message = message_pb2.Message.FromString(reply.message)
        tree = message_pb2.ObjectTree.FromString(reply.tree)
        request = runtime_pb2.PushAppMessagesRequest(
            messages_list=[message], message_object_trees=[tree]
        )
        found = _called(self._client.PushMessages, request)
        if list(found.message_ids) != [tree.object_id]:
            raise RuntimeGoneError("Expected the SuperNode to take the reply")
        return found.session_id, list(found.objects_to_push)

    def has(self, reply: Reply) -> bool:
        """Does the SuperNode still have an announced reply? It forgets it once it has sent it."""
        tree = message_pb2.ObjectTree.FromString(reply.tree)
        request = message_pb2.PullObjectRequest(object_id=tree.object_id)
        return _called(self._client.PullObject, request).object_found

    def upload(self, run: int, reply: Reply, session: str, wanted: list[str]) -> None:
        """Push the objects of an announced reply; with the last of them it may be sent."""
        for each in wanted:
            request = message_pb2.PushObjectRequest(
                run_id=run, object_id=each, object_content=reply.objects[each], session_id=session
            )
            if not _called(self._client.PushObject, request).stored:
                raise RuntimeGoneError("Expected the SuperNode to store the reply")

    def done(self, run: int, tree: bytes) -> None:
        """The reply is pushed whole: forget the message, end the task."""
        root = message_pb2.ObjectTree.FromString(tree).object_id
        confirmed = message_pb2.ConfirmMessageReceivedRequest(run_id=run, message_object_id=root)
        _called(self._client.ConfirmMessageReceived, confirmed)
        request = runtime_pb2.PushTaskOutputRequest(sub_status="completed", details="")
        _called(self._client.PushTaskOutput, request)


class _SecretHeaders:
    """Signs with the shared secret. Flower's own does the same, and takes 18 MB to import."""

    def __init__(self, secret: bytes) -> None:
        self._secret = derive_auth_secret(secret)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        headers = create_superexec_auth_metadata(
            auth_secret=self._secret, method=context.rpc_method, request=context.message
        )
        context.request.headers.update(headers)
        return call_next(context)


class _TokenHeader:
    """Says which task a request is about."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header."""
        context.request.headers[TASK_TOKEN_HEADER] = self._token
        return call_next(context)


def _beat(client: RuntimeHttpClient, stop: threading.Event) -> None:
    """Keep a task alive. What goes wrong here goes wrong at its next step too, which says so."""
    pause = _FIRST_HEARTBEAT_SECONDS
    while not stop.wait(pause):
        pause = _HEARTBEAT_SECONDS
        with suppress(httpx.HTTPError, ValueError):
            client.SendTaskHeartbeat(runtime_pb2.SendTaskHeartbeatRequest())


def _called(method: Callable[[Request], Response], request: Request) -> Response:
    """A call, made again for a while if it does not get through."""
    end = time.monotonic() + _GONE_SECONDS
    for pause in _pauses():
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise TaskLostError("The SuperNode does not know the task any more") from error
            raise RuntimeGoneError(_in_words(error)) from error
        except (httpx.HTTPError, ValueError) as error:
            if time.monotonic() > end:
                raise RuntimeGoneError(_in_words(error)) from error
        time.sleep(pause)
    raise AssertionError


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status == httpx.codes.UNAUTHORIZED:
            return "The SuperNode refuses the executor: do both have the same superexec.secret?"
        return f"The SuperNode answers with status {status}"
    return f"The SuperNode cannot be reached ({type(error).__name__})"


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
