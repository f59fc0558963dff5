"""Verification of a network: pairs, figures, thresholds, templates."""
