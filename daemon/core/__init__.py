"""What every room may import: settings, errors, names, messages, lifecycle. No input or output."""
