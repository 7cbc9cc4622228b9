"""The transformer, written by hand. `llm.model.counts` does without torch, so nothing is imported here."""
