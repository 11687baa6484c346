"""Federations that send every message back, its bytes inverted: ours and Flower's, for `benchmarks/deployment.py`."""
