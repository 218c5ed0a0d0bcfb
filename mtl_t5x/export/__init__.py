"""A run's model for other programs: a Hugging Face folder, or T5X's layout, with a model card.

May import experiment and what is below it.
"""
