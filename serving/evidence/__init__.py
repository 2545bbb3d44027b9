"""What did the requests that the router drew come to, by version? Integers for whoever judges a rollout."""
