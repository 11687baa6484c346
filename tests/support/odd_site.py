"""The worker and the executor of a site as programs, with a desk that does what a test has written into a file.

    odd_site.py worker DIR     the worker, confined as ever; its desk reads DIR/mode for every message
    odd_site.py executor DIR   the executor, with such workers

| mode | the desk |
|---|---|
| echo | replies |
| fail | raises an exception with a text that nobody may see |
| hang, hang once | never returns; the first time only |
| die, die once | the process ends in the middle; the first time only |
| memory | asks for more than it may have |
| other | replies to another message than was asked |
| garbage | returns bytes that are no reply |
| slow | takes a second |

It counts in DIR/asked: a line for every message.
"""

import os
import sys
import time
from pathlib import Path

import client.executor.tending
import client.worker.__main__

SCRIPT = Path(__file__).absolute()
WORKER = ("-P", str(SCRIPT), "worker")
EXECUTOR = ("-P", str(SCRIPT), "executor")
"""After the interpreter, before the directory."""


class OddDesk:
    def __init__(self, directory):
        self._directory = directory.path

    def refresh(self):
        pass

    def answer(self, content):
        from runtime_api import echo

        from client.parcels import Request
        from client.worker.answering import answered

        asked = self._directory / "asked"
        times = asked.read_text().count("\n") if asked.exists() else 0
        with asked.open("a") as file:
            file.write(f"{os.getpid()}\n")
        mode = (self._directory / "mode").read_text()
        if mode.endswith(" once"):
            mode = "echo" if times else mode.removesuffix(" once")
        try:
            if mode == "fail":
                raise RuntimeError("the patient's name")
            if mode == "hang":
                time.sleep(3600)
            if mode == "die":
                os._exit(1)
            if mode == "memory":
                bytearray(1 << 45)
            if mode == "garbage":
                return os.urandom(100)
            if mode == "slow":
                time.sleep(1.0)
            reply = answered(echo, Request.from_bytes(content))
            if mode == "other":
                from dataclasses import replace

                from flwr.proto import message_pb2

                message = message_pb2.Message.FromString(reply.message)
                message.metadata.dst_node_id = 99
                reply = replace(reply, message=message.SerializeToString())
            return reply.to_bytes()
        except Exception as error:  # noqa: BLE001  as the desk does
            print(error, flush=True)  # noqa: T201  into the log
            return b""


def _desk(directory):
    sys.path.insert(0, str(SCRIPT.parent))
    return OddDesk(directory)


if __name__ == "__main__":
    kind, place = sys.argv[1:]
    if kind == "worker":
        client.worker.__main__._desk = _desk
        sys.exit(client.worker.__main__.main([place]))
    import client.executor.__main__

    client.executor.tending._COMMAND = WORKER
    sys.exit(client.executor.__main__.main([place]))
