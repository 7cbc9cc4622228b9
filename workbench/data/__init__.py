"""The Data screen and the work on corpora."""
