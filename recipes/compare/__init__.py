"""Compares several losses over several seeds, with all other settings equal: plan, run, judge, report."""
