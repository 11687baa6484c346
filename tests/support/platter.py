"""What a power failure could leave of a ledger's files, told by what was heard of them (`disk.py`).

A `kill -9` takes a process and nothing else: what it wrote is in the operating system's cache, synced or not, so no kill
finds a missing sync. This is the other model:

* what was synced is there, whole;
* of what was written since, any part may be, in any order, torn at the edges of sectors;
* a name that was made or removed since its directory was synced may be there or not, the earlier ones first.

SQLite syncs the directory together with the first sync of a log or journal that it made, and so does this. Not modelled:
a disk that says that it has synced and has not.
"""

SECTOR = 512


class _Content:
    def __init__(self, content=b"", *, log=False):
        self.log = log
        self._synced, self._written = content, []

    def write(self, place, content):
        """`content` None: cut off there."""
        self._written.append((place, content))

    def sync(self):
        self._synced, self._written = self.left(lambda: True), []

    def left(self, survives):
        found = bytearray(self._synced)
        for place, content in self._written:
            if content is None:
                if survives():
                    found = found[:place].ljust(place, b"\0")
                continue
            for start, sector in _sectors(place, content):
                if survives():
                    found = found.ljust(start + len(sector), b"\0")
                    found[start : start + len(sector)] = sector
        return bytes(found)


def _sectors(place, content):
    """What is written to every sector: (where, content)."""
    while content:
        size = SECTOR - place % SECTOR
        yield place, content[:size]
        place, content = place + size, content[size:]


class Platter:
    """The files of one directory.

    Arguments:
        files: name -> content, on the disk already.
    """

    def __init__(self, files):
        self._names = {name: _Content(content) for name, content in files.items()}
        self._synced, self._named = dict(self._names), []

    def hear(self, what, name, place, content):
        """Something was done, as `disk.Heard` tells after it."""
        if what in ("create", "create log"):
            self._name(name, _Content(log=what == "create log"))
        elif what == "delete":
            self._name(name, None)
        elif what == "sync":
            self._sync(self._names[name])
        else:
            self._names[name].write(place, content if what == "write" else None)

    def left(self, survives):
        """name -> content after a power failure; `survives` is asked of everything that was not synced."""
        names = dict(self._synced)
        for name, content in self._named:
            if not survives():
                break
            names[name] = content
        return {name: each.left(survives) for name, each in names.items() if each is not None}

    def _name(self, name, content):
        self._names[name] = content
        self._named.append((name, content))

    def _sync(self, content):
        content.sync()
        if content.log:
            content.log = False
            self._synced, self._named = dict(self._names), []
