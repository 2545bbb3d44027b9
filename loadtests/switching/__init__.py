"""What `make bench NAME=switch` is made of."""
