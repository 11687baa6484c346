"""A coordinator's Fleet API, as a site sees it through the gateway: TLS, Flower's messages, one node and one run.

Signatures are checked as the gateway does: of a key that is known, within the window, and each once.
"""

import base64
import collections
import contextlib
import hashlib
import http.server
import ipaddress
import ssl
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID
from flwr.cli.build import build_fab_from_files
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from runtime_api import NODE, RUN, WAIT_SECONDS, Given

ALLOWED = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "pull-object", "push-object", "confirm-message-received",
)  # fmt: skip


def certificates(directory, *, valid=(-1, 30), name="127.0.0.1"):
    """A certificate that vouches for itself, `ca.pem`, and its key; valid from and to, in days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    start, end = (datetime.now(UTC) + timedelta(days=each) for each in valid)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]),
            critical=False,
        )
        .sign(key, SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "server.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return directory


class FleetApi:
    """The API; a context manager.

    Attributes:
        online: is the node? keys: public keys in PEM form that are known. node: its number now.
        calls: paths that were asked, in order. sent: replies that have come, whole.
        skew: seconds that this coordinator's clock is ahead. status: of every answer, if not 0.
    """

    def __init__(self, place):
        self.online, self.keys, self.node, self.skew, self.status = False, set(), NODE, 0.0, 0
        self.calls, self.sent = collections.deque(), []
        self._stamps, self._waiting, self._given, self._replies = set(), [], {}, {}
        self._lock = threading.RLock()
        self.fab = _fab()
        self.fab_hash = hashlib.sha256(self.fab).hexdigest()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "ca.pem", place / "server.key")
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()

    def give(self, message):
        """An instruction, for the node to pull."""
        given = Given(message)
        with self._lock:
            self._waiting.append(given)
            self._given |= given.objects
        return given

    def wait(self, condition):
        end = time.monotonic() + WAIT_SECONDS
        while not condition(self):
            assert time.monotonic() < end, f"nothing came of it: {list(self.calls)[-10:]}"
            time.sleep(0.02)

    def date(self):
        return formatdate(time.time() + self.skew, usegmt=True)

    def handle(self, path, headers, body):
        """(status, content)."""
        name = path.removeprefix("/v1/fleet/")
        with self._lock:
            self.calls.append(name)
            if self.status:
                return self.status, b""
            if name not in ALLOWED:
                return 404, b""
            if not self._is_signed(headers):
                return 401, b""
            return getattr(self, "_" + name.replace("-", "_"))(body)

    def _is_signed(self, headers):
        try:
            key = base64.b64decode(headers["flwr-public-key"])
            stamp, signature = (
                headers["flwr-timestamp"],
                base64.b64decode(headers["flwr-signature"]),
            )
            load_pem_public_key(key).verify(signature, stamp.encode(), ec.ECDSA(SHA256()))
        except (TypeError, ValueError, InvalidSignature):
            return False
        age = time.time() + self.skew - datetime.fromisoformat(stamp).timestamp()
        fresh = stamp not in self._stamps and -5 < age < 305
        self._stamps.add(stamp)
        return fresh and key in self.keys

    def _activate_node(self, body):
        if fleet_pb2.ActivateNodeRequest.FromString(body).heartbeat_interval < 30:
            return 400, b""
        if self.online:
            return 412, b""
        self.online = True
        return 200, fleet_pb2.ActivateNodeResponse(node_id=self.node).SerializeToString()

    def _deactivate_node(self, body):
        if fleet_pb2.DeactivateNodeRequest.FromString(body).node_id != self.node:
            return 401, b""
        if not self.online:
            return 412, b""
        self.online = False
        return 200, b""

    def _send_node_heartbeat(self, _body):
        return 200, heartbeat_pb2.SendNodeHeartbeatResponse(success=True).SerializeToString()

    def _pull_messages(self, _body):
        response = fleet_pb2.PullMessagesResponse()
        if self._waiting:
            given = self._waiting.pop(0)
            response.messages_list.append(given.proto)
            response.message_object_trees.append(given.tree)
        return 200, response.SerializeToString()

    def _get_run(self, _body):
        response = run_pb2.GetRunResponse()
        response.run.run_id, response.run.series_id = RUN, 1
        response.run.fab_id, response.run.fab_version = "tests/discreet-test", "1.0.0"
        response.run.fab_hash = self.fab_hash
        return 200, response.SerializeToString()

    def _get_fab(self, _body):
        response = fab_pb2.GetFabResponse()
        response.fab.hash_str, response.fab.content = self.fab_hash, self.fab
        return 200, response.SerializeToString()

    def _pull_object(self, body):
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        content = self._given.get(name, b"")
        response = message_pb2.PullObjectResponse(
            object_found=bool(content), object_available=bool(content), object_content=content
        )
        return 200, response.SerializeToString()

    def _confirm_message_received(self, _body):
        return 200, b""

    def _push_messages(self, body):
        request = fleet_pb2.PushMessagesRequest.FromString(body)
        (proto,), (tree,) = request.messages_list, request.message_object_trees
        wanted, waiting = [], [tree]
        while waiting:
            each = waiting.pop()
            wanted.append(each.object_id)
            waiting += each.children
        self._replies["session"] = (proto, set(wanted), {})
        response = fleet_pb2.PushMessagesResponse(objects_to_push=wanted, session_id="session")
        return 200, response.SerializeToString()

    def _push_object(self, body):
        request = message_pb2.PushObjectRequest.FromString(body)
        proto, wanted, had = self._replies["session"]
        had[request.object_id] = request.object_content
        if set(had) == wanted:
            self.sent.append(inflate_object_from_contents(proto.metadata.message_id, dict(had)))
        return 200, message_pb2.PushObjectResponse(stored=True).SerializeToString()


_APP = b"""
[project]
name = "discreet-test"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "a:app"
clientapp = "a:app"
"""


def _fab():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a library that Flower uses
        return build_fab_from_files({"pyproject.toml": _APP})[0]


def _handler_of(api):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self.answer(*api.handle(self.path, self.headers, body))

        def do_GET(self):
            self.answer(404, b"")

        def answer(self, status, content):
            self.send_response_only(status)
            self.send_header("date", api.date())
            self.send_header("content-type", "application/protobuf")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(OSError):  # a caller that did not trust the certificate
                super().handle()

    return Handler
