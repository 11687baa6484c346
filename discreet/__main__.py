"""The entry point: `discreet`, and `python -m discreet`.

Importing what the commands need takes a second or two, in which Ctrl-C should end the program like any other.
"""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Run the `discreet` command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from discreet.main import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
