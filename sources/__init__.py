"""What samples come from, one file a system."""
