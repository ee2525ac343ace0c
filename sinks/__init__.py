"""Where samples go to, one file a system: stores and publishers."""
