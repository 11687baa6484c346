"""`python -m server.gateway DIR`: the gateway of a coordinator's directory, until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from privacy.errors import DiscreetError, UserError
from server.directory import CoordinatorDirectory
from server.gateway.app import Gateway
from server.gateway.authentication import Sites
from server.gateway.connections import listen, tls_of
from server.gateway.deliveries import Deliveries
from server.gateway.refusals import Refusals
from server.gateway.upstream import Glance, Upstream
from study.notes import written

_FORGET_SECONDS = 60


async def serve(directory: CoordinatorDirectory) -> None:
    """Run the gateway until SIGTERM or SIGINT. Raises UserError where it cannot start."""
    settings = directory.settings()
    network, flower = settings.network, directory / "flower"
    flower.mkdir(mode=0o700, exist_ok=True)
    refusals = Refusals(written, lambda: datetime.now(UTC))
    try:
        tls = tls_of(str(directory / "gateway.pem"), str(directory / "gateway.key"))
        upstream = Upstream(f"https://127.0.0.1:{network.superlink_port}", directory / "ca.pem")
    except OSError as error:
        raise UserError(
            f"The gateway's certificate cannot be used: {error.strerror}",
            hint="make a new one with: discreet coordinator renew",
        ) from error
    deliveries = Deliveries(flower / "gateway.db")
    gateway = Gateway(
        sites=Sites(directory / "sites.json"),
        upstream=upstream,
        glance=Glance(flower / "superlink.db"),
        deliveries=deliveries,
        refusals=refusals,
        limits=settings.limits,
    )
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    forgetting = asyncio.ensure_future(_forget(deliveries))
    try:
        await listen(
            gateway, refusals, host=network.listen, port=network.port,
            connections=settings.limits.connections, tls=tls, stop=stop,
        )  # fmt: skip
    except OSError as error:
        address = f"{network.listen}:{network.port}"
        raise UserError(f"The gateway cannot listen on {address}: {error.strerror}") from error
    finally:
        forgetting.cancel()
        await upstream.close()
        deliveries.close()


async def _forget(deliveries: Deliveries) -> None:
    while True:
        with suppress(sqlite3.Error):  # a full disk, say: the next minute's turn
            deliveries.forget(time.time())
        await asyncio.sleep(_FORGET_SECONDS)


def main() -> int:
    """Run the gateway of the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m server.gateway DIRECTORY\n")
        return 2
    with suppress(ValueError, OSError):  # connections are files
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()  # what is loaded stays, and need not be looked through again (`connections`)
    try:
        asyncio.run(serve(CoordinatorDirectory(Path(sys.argv[1]))))
    except DiscreetError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n".rstrip() + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
