"""Figures and tables made from what a run has written."""
