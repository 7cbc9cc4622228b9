"""Which settings of a configuration decide the tokens of a data set."""

DECIDES_THE_TOKENS = (
    "corpus", "validation", "format", "size_mb", "seed", "text_field", "validation_fraction", "split", "boundary",
    "chunk_tokens",
)  # fmt: skip
