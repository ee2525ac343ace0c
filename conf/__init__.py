"""The YAML that ships as the default."""
