"""Token shards: tokenizing corpora into them and reading those of other programs."""
