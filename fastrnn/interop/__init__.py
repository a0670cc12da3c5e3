"""Around models that exist: converting their layers, and compiling ahead of the first call."""
