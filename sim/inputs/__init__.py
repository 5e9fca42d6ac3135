"""Frozen, validated descriptions: hardware, topology, model, engine, workload. No files, no time."""
