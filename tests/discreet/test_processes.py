"""The processes of a deployment are kept going, each for itself."""

import sys
import threading

from discreet.processes import Service, keep_going
from study.processes import Process


def test_one_that_cannot_be_started_ends_no_other(tmp_path):
    said, stop, heard = [], threading.Event(), threading.Event()
    absent = Process(name="absent", command=(str(tmp_path / "nothing"),))
    present = Process(name="present", command=(sys.executable, "-c", "import time; time.sleep(60)"))

    def say(line):
        said.append(line)
        if len(said) == 2:
            heard.set()

    logs = tmp_path / "logs"
    # In this thread, as children are bound to the life of the thread that starts them.
    threading.Thread(target=lambda: (heard.wait(30), stop.set())).start()
    services = [Service(absent), Service(present, ending=1.0)]
    keep_going(services, logs, stop, say)
    assert (
        said[:2] == ["absent cannot be started (No such file or directory); it is tried again"] * 2
    )
    assert {each.name for each in logs.iterdir()} == {"absent.log", "present.log"}
