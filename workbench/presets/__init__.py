"""The Presets screen and what it shows."""
