"""Secure aggregation at a site: every step of its state machine, on the disk before it leaves.

    charge -> compute -> mask -> store -> send        (`client/answers.py`)
    agree on one sum -> send what unmasks it          (here)

What a site agrees to stands in its ledger before the reply is sent, so a crash between the two cannot make it agree
to another sum. Keys and masks live in memory: whoever restarts resends the very bytes of its answer, helps with no
unmasking of it, and is asked for a new key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from client.ledger import Ledger
from privacy.errors import AggregationError
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.messages import (
    Message,
    OpenRequest,
    RevealRequest,
    RoundRequest,
    SetupRequest,
    SurvivorsRequest,
    Upload,
)
from privacy.private_sum import SumMechanism
from study.aggregation import federation_of
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.roster import Roster

__all__ = ["MaskedSums"]
