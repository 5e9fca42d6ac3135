"""What one kernel takes on one GPU: formulas with fitted efficiencies, or measured tables.

A kernel model is a function from a GPU, a kind and a shape to a `KernelTiming`; a script may pass its own.
Knows nothing of links, layers or batches.
"""

from sim.cost.kernels.kernels import KERNELS, KernelModel, KernelTiming, formula

__all__ = ["KERNELS", "KernelModel", "KernelTiming", "formula"]
