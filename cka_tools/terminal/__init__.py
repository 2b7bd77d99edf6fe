"""The command line: commands, options, progress and tables."""
