"""What the parties of a study agree on: its contract, its identity, its queries, plans and guarantee.

Pure, but for `envelope`, the one place where a query becomes a Flower message.
"""
