"""The privacy core: clipping, sampling, noise, rounding, the private sum and its accounting.

Pure functions of their arguments: no files, clocks, sockets, logs or Flower in here. Time, keys and randomness
come in as arguments. The argument why it holds stands in the modules and, whole, in `docs/privacy-argument.md`.
"""
