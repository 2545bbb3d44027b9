"""What is the process that counts at? Words in shared memory, for whoever keeps it alive."""

READY, STREAM, SINCE_NS, USED_NS = range(4)
"""Whether it counts; and the stream that it is at, since when, by the clock (0 is none) and by the processor
time used."""
WORDS = 8
