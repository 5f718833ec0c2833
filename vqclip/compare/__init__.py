"""Variants x prompts x seeds: the cells of a comparison, and what they come to."""
