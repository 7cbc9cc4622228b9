"""The transformer. Imports nothing, since `llm.model.counts` must not import torch."""
