"""What a fact wants written: the value, its descent, its anchor."""
