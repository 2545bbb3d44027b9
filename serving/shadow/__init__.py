"""A version beside those that answer: what it makes of their requests, in a process of its own."""
