"""KV caches that leave HBM: to the replica that decodes (`transfer`), and to tiers below (`tiers`,
`offloading_queue`).

Everything here moves bytes on the fabric and holds blocks for as long as they move. It must not know which
requests arrive, how a batch is chosen, or where a tier's numbers come from (`cost/kv_tiers.py`).
"""
