"""Many runs: a sweep over changes and seeds, a paired comparison, the capacity under an objective.

Each run is a point on a process of this machine or of a cluster, and comes back as a row whatever happened
to it; tables and intervals are computed from rows. Knows nothing of how charts are drawn and of the insides
of a run.
"""
