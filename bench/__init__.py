"""How fast and how small the head is, measured side by side with what one would use instead."""
