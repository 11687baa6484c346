"""The entry point: `discreet`, and `python -m discreet`.

Importing what the commands need takes a second or two, in which Ctrl-C should end the program like any other.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the `discreet` command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from discreet.console import INTERRUPTED
    from discreet.main import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:  # before any command has begun
        sys.exit(INTERRUPTED)
    except OSError as error:  # of the output itself: a full disk, a closed pipe
        sys.stderr.write(f"Error: the output could not be written: {error.strerror}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
