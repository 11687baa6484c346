"""The worker of a site, `python -m client.worker DIR`: the one process that sees records and has the site's key.

`__main__` shows the steps; `confinement` is what it is kept from.
"""
