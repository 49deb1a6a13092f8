"""What the applier knows of trust: how sure the model is of the old answer."""
