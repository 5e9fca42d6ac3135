"""KV caches that leave HBM: to other replicas, and to tiers below."""
