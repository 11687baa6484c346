"""Ledgers in, verdicts out: what an auditor can check offline, without taking any party's word.

Needs neither a site's data nor its key, nor the coordinator: exports, receipts and public keys alone.
"""
