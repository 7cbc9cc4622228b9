"""Text in, batches out: corpora, token shards, a held-out split, and windows of tokens."""
