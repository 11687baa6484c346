"""A data-holding site: its data, its answers, and the Flower ClientApp through which it is asked.

Whatever comes from the server is hostile input; whatever depends on the data leaves through a private sum alone.
"""
