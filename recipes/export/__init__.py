"""Trained networks in the formats that other software reads, each checked against PyTorch."""
