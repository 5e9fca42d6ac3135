"""What one kernel takes on one GPU: formulas with fitted efficiencies, or measured tables."""

from sim.cost.kernels.kernels import KERNELS, KernelModel, KernelTiming, formula

__all__ = ["KERNELS", "KernelModel", "KernelTiming", "formula"]
