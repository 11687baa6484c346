"""What stands in SuperLink's database, as whoever steals its disk would look: every byte of its files, free pages too."""

import numpy as np


def bytes_of(directory):
    """All that is in a SQLite database's files: pages in use and free ones, its log, and what was never checkpointed."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob("superlink.db*")))


def contains(data, text):
    """Does a text stand there, in any of the forms in which it could?"""
    forms = [text.encode(each) for each in ("utf-8", "utf-16-le", "utf-16-be")]
    forms += [forms[0].hex().encode(), forms[0][::-1]]
    return any(each in data for each in forms)


def find_vector(data, expected, tolerance, *, width=4):
    """Where a vector stands, to within a tolerance: as little-endian integers of `width` bytes, at any byte.

    Arguments:
        expected: of numbers, shape (d,). tolerance: what noise and rounding may add to each.
    """
    found = []
    for shift in range(width):
        usable = (len(data) - shift) // width * width
        numbers = np.frombuffer(data, f"<i{width}", count=usable // width, offset=shift)
        places = np.ones(max(0, len(numbers) - len(expected) + 1), dtype=np.bool_)
        for offset, each in enumerate(expected):
            column = numbers[offset : offset + len(places)].astype(np.float64)
            places &= np.abs(column - each) <= tolerance
        found += [shift + width * int(place) for place in np.flatnonzero(places)]
    return found
