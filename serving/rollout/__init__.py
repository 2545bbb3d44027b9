"""Rollouts that judge themselves: what one is to do, by what its candidate is judged, how it is told."""
