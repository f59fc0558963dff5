"""Experiments as frozen records: one a file, their registry, their settings as TOML and overrides."""
