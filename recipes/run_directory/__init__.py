"""What a run leaves on disk: recipe, environment, metrics, summary with its verdict; written and read."""
