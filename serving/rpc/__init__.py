"""gRPC: the V2 service, whichever engine speaks HTTP/2 for it."""
