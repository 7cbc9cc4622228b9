"""Models of other programs: their names for weights and settings. Needs none of these programs."""
