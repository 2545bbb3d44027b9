"""Who answers a request, and how that may change: standard library only, no clock, no socket."""
