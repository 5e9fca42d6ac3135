"""What one kernel takes on one GPU: formulas with fitted efficiencies, or measured tables."""
