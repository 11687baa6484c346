"""Flower's own command, as somebody uses it who knows nothing of Discreet."""

import os
import shutil
import subprocess
from pathlib import Path

from server.directory import CoordinatorDirectory
from study.processes import FLOWER, console_script

ROOT = Path(__file__).parents[2]


def flwr_run(deployment, directory, *, study, app=None):
    """`flwr run` on a project, with a study's hash among its settings.

    Arguments:
        directory: a new one. app: the project; None: this one.
    """
    directory.mkdir(exist_ok=True)
    if app is None:
        app = directory / "discreet"  # a name that Flower allows, wherever this checkout is
        app.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, app)
        for name in ("server", "client"):
            (app / name).mkdir()
            for each in ("__init__.py", "flower.py"):
                shutil.copy(ROOT / name / each, app / name)
    home = directory / "flwr"
    home.mkdir()
    port = CoordinatorDirectory(deployment.coordinator).settings().network.superlink_port
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{deployment.coordinator / "ca.pem"}"\n'
    )
    done = subprocess.run(
        [console_script("flwr"), "run", str(app), "lab", "--run-config", f'study="{study}"'],
        env={**os.environ, **FLOWER, "FLWR_HOME": str(home)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
