"""An inference engine on the clock: queue, KV blocks, batches, stages."""
