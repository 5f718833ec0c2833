"""Recipes by name, as YAML underneath a config file. Holds no code."""
