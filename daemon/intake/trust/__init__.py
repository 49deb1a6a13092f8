"""Who may post what, and what is held until somebody has looked at it. No torch."""
