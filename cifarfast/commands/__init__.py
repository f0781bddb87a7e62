"""The command line: one file a subcommand, which parses its flags, calls, and prints."""
