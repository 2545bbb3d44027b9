"""What `make hostile` is made of."""
