"""The executor of a site, `python -m client.executor DIR`: it has the network and no records; its worker the reverse.

`executor` shows the steps of a task; `tending` keeps the worker.
"""
