"""One module a sub-command: read the options, call the layer below, print."""
