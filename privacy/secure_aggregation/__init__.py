"""Secure aggregation: the coordinator learns a sum over the sites and nothing else, even if it cheats.

After Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", in the authenticated
form, on a complete graph. Read in this order: `thresholds`, `messages`, `site`, `coordinator`; `keys`, `shamir` and
`masks` are what they are made of. `docs/secure-aggregation.md` has the argument.
"""
