"""From keys and values to an update of the weights."""
