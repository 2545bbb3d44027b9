"""HTTP/2 for a server (RFC 9113): bytes in, calls out, no sockets and no clock."""
