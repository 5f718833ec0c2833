"""Composition roots: from a config to loaded models, from models to pictures, comparisons and their pages."""
