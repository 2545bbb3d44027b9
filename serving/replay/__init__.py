"""What was asked lately, run through other versions: what is kept of it, and what comes of it."""
