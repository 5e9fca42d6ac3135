"""KV caches that leave HBM: to the replica that decodes (`transfer`), and to tiers below (`tiers`,
`offloading_queue`).

Everything here moves bytes on the fabric and holds blocks for as long as they move. Knows nothing of which
requests arrive, how a batch is chosen, and where a tier's numbers come from (`cost/kv_tiers.py`).
"""
