"""Simulated rollouts of canaries that are as good as what they replace, and of worse ones."""
