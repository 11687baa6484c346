"""How much memory processes take, in parts."""

from __future__ import annotations

import threading
from pathlib import Path

from echoes.common import LIMIT


class UnreadableError(Exception):
    """Only root may see the memory of a process that forbids dumps."""


def memory_of(pid):
    """(PSS, private bytes, bytes of every file that is mapped) of a process; nothing of one that has ended."""
    total, private, files, name = 0, 0, {}, ""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except PermissionError as error:
        raise UnreadableError from error
    except OSError:
        return 0, 0, {}
    for line in lines:
        head, *rest = line.split(maxsplit=5)
        if not head.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
        elif head == "Pss:":
            total += int(rest[0]) * 1024
        elif head == "Rss:":
            files[name] = files.get(name, 0) + int(rest[0]) * 1024
        elif head == "Anonymous:":
            private += int(rest[0]) * 1024
            files[name] -= int(rest[0]) * 1024
    return total, private, files


class Memory:
    """Looks at the processes below some, every so often, while its block runs.

    Attributes:
        found: {root: {part: highest PSS}}, with the parts "together" and "alone".
    """

    def __init__(self, roots, parts, every):
        self.roots, self.parts, self.every = roots, parts, every
        self.found = {name: {} for name in roots}
        self.ending = threading.Event()
        self.looking = threading.Thread(target=self.look, daemon=True)

    def __enter__(self):
        self.looking.start()
        return self

    def __exit__(self, *_error):
        self.ending.set()
        self.looking.join(LIMIT)

    def look(self):
        while not self.ending.wait(self.every):
            for name, pid in self.roots.items():
                try:
                    self.look_at(self.found[name], pid)
                except UnreadableError:
                    self.found[name] = {}
                    return

    def look_at(self, highest, root):
        from deployment import _command, _descendants

        now, private, files = {"together": 0}, 0, {}
        for pid in [root, *_descendants(root)]:
            command = " ".join(_command(pid))
            part = next((part for part, word in self.parts.items() if word in command), None)
            total, own, mapped = memory_of(pid)
            if part is not None:
                now[part] = now.get(part, 0) + total
            now["together"] += total
            private += own
            for each, size in mapped.items():
                files[each] = max(files.get(each, 0), size)
        now["alone"] = private + sum(files.values())
        for part, value in now.items():
            highest[part] = max(highest.get(part, 0), value)


SITE_PARTS = {
    "SuperNode": "client.supernode", "executor": "client.executor", "worker": "client.worker",
    "`discreet site start`": "discreet.keeper site",
}  # fmt: skip
COORDINATOR_PARTS = {
    "SuperLink": "flower-superlink", "gateway": "server.gateway", "supervisor": "server.supervisor",
    "study process": "server.study_process", "`discreet coordinator start`": "discreet.keeper coordinator",
}  # fmt: skip
FLOWER_PARTS = {
    "SuperNode": "flower-supernode", "SuperExec": "flower-superexec", "ClientApp": "flwr-clientapp",
}  # fmt: skip
