"""`python -m discreet` is `discreet`."""

from discreet.main import main

main()
