"""Speed and memory of the head, measured side by side with its alternatives."""
