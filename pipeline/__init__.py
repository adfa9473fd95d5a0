"""The library: mathematics first, then the machine. Importing it costs nothing: neither torch nor ray is loaded."""
