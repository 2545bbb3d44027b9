"""Whether the device is what limits a version on it, or everything around the device."""
