"""Run one test in a copy of the project, then another, without importing every library again.

python -P forked_pytest.py: each line that comes in is [copy, test, file for the output] in JSON. The test runs in a
fork that looks into the copy first; it finds all libraries imported, and nothing of the project. Each line that goes
out is the test's exit code, negative if a signal ended it, as one does when time is up.
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import hypothesis
import pytest

SECONDS = 300  # a bug may also make a test hang
LIBRARIES = (
    "cryptography.x509", "dp_accounting.pld.privacy_loss_distribution", "flwr.clientapp", "flwr.serverapp",
    "matplotlib.figure", "numpy", "safetensors.numpy", "sklearn.datasets", "typer.testing",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


def import_libraries():
    for name in LIBRARIES:
        importlib.import_module(name)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
    ours = {
        file for file in files if Path(file).is_relative_to(ROOT) and "site-packages" not in file
    }
    assert ours == {__file__}, f"a copy would not see its own {ours}"
    assert threading.active_count() == 1, "a fork takes no threads along"


def run(copy, test, output):
    """Run the test, and end this process with its exit code."""
    signal.alarm(SECONDS)
    file = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(copy)
    sys.path.insert(0, copy)
    os.environ |= {"PYTHONPATH": copy, "HYPOTHESIS_STORAGE_DIRECTORY": f"{copy}/hypothesis"}
    # That it fails is enough: nobody reads the least of all examples.
    phases = set(hypothesis.Phase) - {hypothesis.Phase.shrink, hypothesis.Phase.explain}
    hypothesis.settings.register_profile("any", phases=phases)
    hypothesis.settings.load_profile("any")
    code = pytest.ExitCode.INTERNAL_ERROR
    try:
        # Hypothesis has been imported, so that the asserts within it are plain ones. Nobody minds.
        warned = "ignore:Module already imported"
        code = pytest.main(["-qxW", warned, "-p", "no:randomly", "-p", "no:cacheprovider", test])
    except BaseException:  # noqa: BLE001 (also one that would end this process with code 1)
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    import_libraries()
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(*json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
