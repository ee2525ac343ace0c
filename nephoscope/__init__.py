"""What every room of Nephoscope shares: samples and batches, partitions, topics, settings, the registry, the CLI."""

__version__ = "0.1.0"
