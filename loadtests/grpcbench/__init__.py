"""Load over gRPC, from a client that costs less than the servers it measures."""
