"""CORE: in-context multiple-choice, schema and language-modelling tasks, centred against chance and averaged.

Li et al. 2024, "DataComp-LM" (arXiv:2406.11794), whose 22 low-variance tasks the published bundle holds. `bundle` reads
a bundle's folder (no torch), `questions` turns examples into token ids, `score` asks the model.
"""
