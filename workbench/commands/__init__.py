"""The subcommands of the command line: each module adds its parsers with `register` and carries them out."""
