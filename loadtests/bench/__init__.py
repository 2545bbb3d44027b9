"""The parts of the benchmarks: models, requests, servers, load, and the rows that come out."""
