"""Was an answer right? Labels that come later, joined to the answers and counted for each version."""
