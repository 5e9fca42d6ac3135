"""Constants fitted to measurements, and their errors on measurements that no fit saw.

Kernels, collectives inside and between servers, and expert exchange, each with the held-out errors that
say how far the fit carries. Knows no clock and no scenario: one operation alone is all that is fitted
to.
"""
