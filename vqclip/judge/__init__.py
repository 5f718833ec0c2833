"""Judges of finished pictures: verdicts, scores and their intervals. Numbers only."""
