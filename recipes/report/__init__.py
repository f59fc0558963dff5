"""Figures and tables from the files of runs."""
