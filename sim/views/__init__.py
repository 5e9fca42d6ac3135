"""Rows and graphs made visible: charts, a report, a timeline, the picture of a machine."""
