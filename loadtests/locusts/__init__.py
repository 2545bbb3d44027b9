"""Who asks, how many at once, and what is changed meanwhile, in load tests with locust."""
