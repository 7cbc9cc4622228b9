"""The transformer, written by hand: layers, rotary positions, attention and its cache, feed-forward, counts."""
