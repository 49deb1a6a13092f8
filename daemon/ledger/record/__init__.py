"""What intake and the journal write with, each inside a transaction of its own."""
