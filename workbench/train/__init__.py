"""The Train screen and the training service."""
