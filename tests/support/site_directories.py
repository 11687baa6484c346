"""Directories of sites, as `discreet site init` leaves them, with a study that can be approved."""

import csv

import numpy as np
from ledgers import DATA_SET, cap_of, key_of, ledger_of
from runtime_api import SECRET
from site_worker import declaration_of

from client.directory import Limits, Network, Settings, SiteDirectory, Worker, settings_text
from client.registration import identities_of
from client.tables import read_table
from study.keyfiles import write_public_key

COORDINATOR = key_of("coordinator")
SITE = key_of("site")


def key_file(path, key):
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    path.chmod(0o600)


def site_directory(
    path, *, port=9094, coordinator="127.0.0.1:1", seconds=60.0, confined=True, memory=4_000_000_000
):
    """Settings, and the secret: enough for the executor."""
    path.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        network=Network(coordinator=coordinator, runtime_port=port),
        limits=Limits(seconds=seconds, poll_seconds=0.02, memory=memory),
        worker=Worker(confined=confined),
    )
    (path / "site.toml").write_text(settings_text(settings))
    (path / "superexec.secret").write_bytes(SECRET)
    (path / "superexec.secret").chmod(0o600)
    (path / "logs").mkdir(exist_ok=True)
    return SiteDirectory(path)


def write_records(path, *, rows=12):
    generator = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "height", "weight", "ill"])
        for each in generator.uniform(0, 10, (rows, 3)).round(3):
            writer.writerow([*each, "yes" if each[0] > 5 else "no"])
    return path


def furnished(directory, *, epsilon=30.0):
    """Key, ledger with a registered data set, whose coordinator it obeys, and a file of records; the file."""
    data = write_records(directory / "records.csv")
    key_file(directory / "site.key", SITE)
    write_public_key(directory / "site.pub", SITE)
    write_public_key(directory / "coordinator.pub", COORDINATOR)
    ledger = ledger_of(
        "site",
        cap=cap_of(epsilon, 1e-3),
        identities=identities_of(read_table(data), None),
        path=directory / "ledger.sqlite",
    )
    ledger.close()
    return data


__all__ = [
    "COORDINATOR",
    "DATA_SET",
    "SITE",
    "declaration_of",
    "furnished",
    "site_directory",
    "write_records",
]
