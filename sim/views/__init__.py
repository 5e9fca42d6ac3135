"""Rows and graphs made visible: charts, a report, a timeline, the picture of a machine, an experiment's page.

Everything is drawn from frames, graphs and rows, and can be saved as a file that stands alone. Knows nothing
of how a run came about: no scenario is read and no cost computed here.
"""
