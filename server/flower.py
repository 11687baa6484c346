"""What `flwr run` finds in this project's settings as its ServerApp. Nobody runs it.

A coordinator runs the ServerApp that it has installed (`server/study_process.py`), whatever a run ships, and takes
from the run the hash of a study that was submitted to it: flwr run . --run-config 'study="..."'. Elsewhere this does
nothing.
"""

from flwr.serverapp import ServerApp

app = ServerApp()
