"""The command line: one file a group of commands, `main` is the console script."""
