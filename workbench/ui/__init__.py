"""What all screens share: dialogs, lists, tables, keys, palette, themes, settings."""
