"""How long things take alone: pure arithmetic, no clock."""
