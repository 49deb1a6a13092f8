"""How well the rules tell poison from real changes."""
