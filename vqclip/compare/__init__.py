"""Judging results with a model that steered none of them."""
