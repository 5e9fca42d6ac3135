"""How long things take alone: ops of layers, programs of steps, memory, the network, the fair solver.

Pure arithmetic from descriptions to seconds and bytes. Knows no clock and no requests: a batch is numbers of
tokens here, and what several users of a link do to each other on the clock is `runtime.fabric`'s.
"""
