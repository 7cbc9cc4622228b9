"""Batches: windows over token shards, streams and prefetching."""
