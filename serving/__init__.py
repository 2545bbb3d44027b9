"""Everything that touches the world: sockets, sessions, GPU, Ray, metrics, people.

Read `gateway` first: one request, start to finish.
"""
