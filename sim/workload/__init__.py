"""The request generator: arrivals, lengths, shared prefixes, from a workload and a seed. No clock."""
