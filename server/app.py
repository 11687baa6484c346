"""The ServerApp: one job, driven over whatever Grid Flower hands in."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.rounds import Job, Outcome, run_study

__all__ = ["make_server_app"]


def make_server_app(job: Job, finished: Callable[[Outcome], None]) -> ServerApp:
    """A ServerApp that runs `job` and hands over what came of it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        finished(run_study(grid, job))

    return app
