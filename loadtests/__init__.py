"""What drives Turnout from outside, over its public wire alone: load, and measurements under load."""
