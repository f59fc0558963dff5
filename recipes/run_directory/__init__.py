"""Writes and reads the files of a run: recipe, environment, metrics, summary with its verdict."""
