"""Recipes: their frozen records, their TOML files, and changes of single settings."""
