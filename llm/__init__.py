"""The scratch language model: headless, importable without a terminal, and without torch until it is needed."""
