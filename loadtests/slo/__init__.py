"""What is promised of a gateway under load, what was read, and whether the promises were kept."""
