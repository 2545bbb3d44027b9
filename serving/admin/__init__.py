"""What people and programs say to the control over HTTP."""
