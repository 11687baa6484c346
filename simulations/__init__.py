"""Federations in one process: the same ServerApp and ClientApps, without a network.

The only place where randomness may follow from a seed.
"""
