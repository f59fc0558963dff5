"""Experiments as frozen records: the recipes, their registry, their TOML files and overrides."""
