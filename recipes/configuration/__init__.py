"""What a recipe is: frozen records, their TOML, and single settings."""
