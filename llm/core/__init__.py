"""The CORE metric: accuracy on in-context multiple-choice, schema and language-modeling tasks, centered and averaged.

Li et al. 2024, "DataComp-LM" (arXiv:2406.11794); the published bundle has its 22 low-variance tasks. `bundle` reads the
bundle's folder (no torch), `questions` turns examples into token ids, `score` evaluates the model.
"""
