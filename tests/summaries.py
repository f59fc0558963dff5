"""Summaries for tests that need a run directory and no run."""

from fusedface.recipes.run_directory.summary import Summary


def summary(**changes):
    """A whole summary, with these entries changed."""
    values = {
        "recipe": "a-recipe", "seed": 0, "device": "cpu", "verdict": "converged", "verdict_step": None,
        "message": "", "steps": 100, "num_steps": 100, "seconds": 1.0, "images_per_second": 1.0,
        "peak_memory_mib": None, "final_loss": 1.0, "initial_loss": 2.0, "collapse_loss": 3.0,
        "num_identities": 2, "num_images": 4, "unreadable_images": 0,
    }  # fmt: skip
    return Summary(**(values | changes))
