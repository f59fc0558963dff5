"""The heads that are compared: ours, published formulations, and other packages."""
