"""The heads that are held against each other: ours, published formulations, other packages'."""
