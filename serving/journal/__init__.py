"""Where decisions about traffic are kept, so that none is ever lost."""
