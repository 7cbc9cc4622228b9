"""The Runs screen and the operations on runs."""
