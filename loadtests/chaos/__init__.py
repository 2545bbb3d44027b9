"""What `make chaos` is made of."""
