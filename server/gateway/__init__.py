"""The gateway between sites and SuperLink; `python -m server.gateway DIR` runs it.

Stock SuperLink trusts whoever holds a registered key with far more than a site needs: instructions to other sites,
forged replies, other sites' objects, as many bytes as it likes. The gateway passes on what an unmodified SuperNode
sends in the course of its own work, and nothing else; `app` shows the steps.
"""
