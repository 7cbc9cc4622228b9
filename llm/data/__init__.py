"""Text in, batches out: corpora, token shards, a validation split, and windows of tokens."""
