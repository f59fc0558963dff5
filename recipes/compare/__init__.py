"""Several losses on several seeds, everything else alike: plan, run, judge, report."""
