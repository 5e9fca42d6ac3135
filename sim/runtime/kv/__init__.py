"""KV caches that leave HBM: to the replicas that decode, and to tiers below, all over the fabric.

What is sent, kept and read back is counted by tier and by transfer. Knows nothing of routers and scheduling
rules: it moves what the service and the queue of an engine ask for.
"""
