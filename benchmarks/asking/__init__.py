"""How people ask: benchmarks of written facts by free generation."""
