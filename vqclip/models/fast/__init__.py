"""Faster forms of the same models: same weights, same results to a stated tolerance, each with a parity test."""
