"""An inference engine on the clock: queue, KV blocks, batches, stages, and the causes of its time.

A replica is the engine as all others see it; its core chooses a batch, lets its time pass and delivers
tokens, step by step or folded over many. Knows nothing of routers and of other replicas.
"""
