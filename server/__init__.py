"""The coordinator: the Flower ServerApp, its rounds, checkpoints and releases.

It drives a plan, adds up answers and writes down what it saw. It is trusted with nothing else.
"""
