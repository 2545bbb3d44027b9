"""The room for devices: how batches get onto one, when the next is taken, and what a version needs there."""
