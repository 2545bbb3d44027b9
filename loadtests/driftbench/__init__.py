"""What `make bench NAME=drift` simulates: streams with and without drift, and detectors over them."""
