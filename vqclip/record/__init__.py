"""Keeps what a run makes: folder, metrics, frames, video, picture and the facts beside them.

Watches the steps of a run; never takes part in it.
"""
