"""Is every family that the editor knows served as it was edited? Tiny models, real servers."""
