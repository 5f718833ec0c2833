"""Rebuilds every starter model of `vqclip/starter` from open drawings; nothing in `vqclip` imports it."""
